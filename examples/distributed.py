"""Trains a small ViViT on several devices, as each backend has it.

JAX, all devices of one process; on CPUs, XLA makes virtual ones. Then two processes,
that may run on two hosts (the second one with `PROCESS_ID=1`):

    export XLA_FLAGS=--xla_force_host_platform_device_count=8
    KERAS_BACKEND=jax python examples/distributed.py --model-parallel 2
    KERAS_BACKEND=jax python examples/distributed.py --fully-sharded

    export KERAS_DISTRIBUTION_JOB_ADDRESSES=localhost:1234
    export KERAS_DISTRIBUTION_NUM_PROCESSES=2 KERAS_DISTRIBUTION_PROCESS_ID=0
    KERAS_BACKEND=jax python examples/distributed.py

PyTorch and TensorFlow:

    KERAS_BACKEND=torch torchrun --nproc-per-node 2 examples/distributed.py
    KERAS_BACKEND=tensorflow python examples/distributed.py --devices 2

It prints the same losses each time: the batch is divided, not multiplied. With `--out`
a checkpoint is written after each epoch, and training goes on from the one found there,
on however many devices.
"""

import argparse
import atexit
import os
import sys
from pathlib import Path

import keras
import numpy as np
from common.command_line import positive
from common.resuming import Checkpoint

import keras_vivit

BATCH_SIZE, CLASSES = 8, 4
SIZES = {
    "video_shape": (8, 16, 16, 1),
    "tubelet_size": (2, 8, 8),
    "embed_dim": 32,
    "num_layers": 2,
    "num_temporal_layers": 1,
    "num_heads": 8,
    "mlp_dim": 64,
}


def main(arguments=None):
    options = parse(arguments)
    run = {"jax": run_jax, "torch": run_torch, "tensorflow": run_tensorflow}
    try:
        run[keras.config.backend()](options)
    except ValueError as error:
        sys.exit(f"error: {error}")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--variant", default="spatio_temporal", help="of the ViViT paper")
    add("--devices", type=int, help="JAX: all; TensorFlow: virtual CPUs")
    add("--model-parallel", type=int, default=1, metavar="M", help="JAX only")
    add("--fully-sharded", action="store_true", help="JAX only: divide all kernels")
    add("--epochs", type=positive, default=4)
    add("--steps", type=positive, default=5, help="of an epoch")
    add("--out", type=Path, help="folder of the checkpoint")
    return parser.parse_args(arguments)


# === What all have in common ===


def volumes(epoch, step):
    """Returns a batch, the same on every host: a pattern for each class, and noise."""
    patterns = np.random.default_rng(0).normal(size=(CLASSES, *SIZES["video_shape"]))
    rng = np.random.default_rng((epoch, step))
    labels = rng.integers(CLASSES, size=BATCH_SIZE)
    videos = patterns[labels] + rng.normal(size=(BATCH_SIZE, *SIZES["video_shape"]))
    return videos.astype("float32"), labels


def build(options):
    keras.utils.set_random_seed(0)
    model = keras_vivit.ViViTClassifier(
        num_classes=CLASSES, variant=options.variant, **SIZES
    )
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy"
    )
    model.optimizer.build(model.trainable_variables)
    return model


class Batches(keras.utils.PyDataset):
    """The batches of an epoch, or the given share of each."""

    def __init__(self, options, share=slice(None)):
        super().__init__()
        self.steps, self.epoch, self.share = options.steps, 0, share

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        videos, labels = volumes(self.epoch, step)
        return videos[self.share], labels[self.share]

    def start_epoch(self, epoch, logs=None):
        self.epoch = epoch


class Losses(keras.callbacks.Callback):
    """Prints the loss of each step; Keras has the mean since the epoch began."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.total = epoch, 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = logs["loss"] * (batch + 1)
        report(self.epoch, batch, total - self.total)
        self.total = total


def report(epoch, step, loss):
    print(f"epoch {epoch + 1} step {step + 1} loss {loss:.6f}", flush=True)


def fit(model, options, checkpoint, share=slice(None), prints=True):
    batches = Batches(options, share)
    start = keras.callbacks.LambdaCallback(on_epoch_begin=batches.start_epoch)
    model.fit(
        batches,
        initial_epoch=checkpoint.load(model),
        epochs=options.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[start, *([Losses()] if prints else []), checkpoint],
    )


# === JAX: one program for all devices, of one process or of many ===


def run_jax(options):
    import jax
    from jax.experimental import multihost_utils

    joins = "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ
    if joins and not jax.distributed.is_initialized():
        keras.distribution.initialize()
    processes, process = processes_of_jax()
    distribution = distribution_for(options)
    keras.distribution.set_distribution(distribution)

    # Processes that share one replica of the model read the same rows.
    shares = min(processes, distribution.num_model_replicas)
    rows = BATCH_SIZE // shares
    share = slice(process * shares // processes * rows, None)
    share = slice(share.start, share.start + rows)
    checkpoint = Checkpoint(
        options.out,
        to_numpy=lambda value: multihost_utils.process_allgather(value, tiled=True),
        writes=process == 0,
        wait=lambda: multihost_utils.sync_global_devices("checkpoint"),
    )
    fit(build(options), options, checkpoint, share, prints=process == 0)


def processes_of_jax():
    import jax

    return jax.process_count(), jax.process_index()


def distribution_for(options):
    """Returns the distribution over so many devices; default: all of every host."""
    devices = keras.distribution.list_devices()
    count, parts = options.devices or len(devices), options.model_parallel
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"`--devices` must be 1 to {len(devices)}. Received: {options.devices}"
        )
    if parts < 1 or count % parts or SIZES["num_heads"] % parts:
        raise ValueError(
            f"`--model-parallel` must divide {count} devices and "
            f"{SIZES['num_heads']} heads. Received: {parts}"
        )
    if BATCH_SIZE % (count // parts):
        raise ValueError(
            f"Copies of the model must divide a batch of {BATCH_SIZE}. "
            f"Received: {count // parts}"
        )
    if parts == 1 and not options.fully_sharded:
        return keras.distribution.DataParallel(
            devices=devices[:count], auto_shard_dataset=False
        )
    mesh = keras.distribution.DeviceMesh(
        (count // parts, parts), ("batch", "model"), devices[:count]
    )
    return keras.distribution.ModelParallel(
        layout_map=keras_vivit.layout_map(mesh, options.fully_sharded),
        auto_shard_dataset=False,
    )


# === PyTorch: a process for each device, gradients averaged ===


def run_torch(options):
    import torch

    check_data_parallel(options)
    gpus = torch.cuda.is_available()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if gpus else "gloo")
        atexit.register(torch.distributed.destroy_process_group)
    with keras.device(f"cuda:{os.environ['LOCAL_RANK']}" if gpus else "cpu"):
        train_torch(options)


def train_torch(options):
    import torch
    from torch.distributed import all_reduce, barrier, get_rank, get_world_size

    rows = BATCH_SIZE // get_world_size()
    share = slice(get_rank() * rows, (get_rank() + 1) * rows)
    model, batches = build(options), Batches(options, share)
    checkpoint = Checkpoint(options.out, writes=get_rank() == 0, wait=barrier)
    replica = torch.nn.parallel.DistributedDataParallel(model)
    weights = model.trainable_variables
    for epoch in range(checkpoint.load(model), options.epochs):
        batches.start_epoch(epoch)
        for step in range(len(batches)):
            videos, labels = batches[step]
            replica.zero_grad()
            loss = model.compute_loss(y=labels, y_pred=replica(videos, training=True))
            loss.backward()
            with torch.no_grad():
                model.optimizer.apply([w.value.grad for w in weights], weights)
                all_reduce(loss)
            if get_rank() == 0:
                report(epoch, step, float(loss.detach()) / get_world_size())
        checkpoint.on_epoch_end(epoch)


# === TensorFlow: a copy of the model on each device of one process ===


def run_tensorflow(options):
    import tensorflow as tf

    check_data_parallel(options)
    gpus = tf.config.list_physical_devices("GPU")
    devices = [f"GPU:{i}" for i in range(len(gpus))]
    if not gpus:
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * (options.devices or 1)
        tf.config.set_logical_device_configuration(cpu, parts)
        devices = [f"CPU:{i}" for i in range(len(parts))]
    with tf.distribute.MirroredStrategy(devices[: options.devices]).scope():
        model = build(options)
    fit(model, options, Checkpoint(options.out))


def check_data_parallel(options):
    if options.model_parallel != 1 or options.fully_sharded:
        raise ValueError(
            "`--model-parallel` and `--fully-sharded` need JAX: Keras has them there "
            "alone. "
            f"Received: KERAS_BACKEND={keras.config.backend()}"
        )


if __name__ == "__main__":
    main()
