"""One training in several processes, on one host or on many.

PyTorch: `torchrun` starts them, `DistributedDataParallel` averages the gradients. JAX:
`KERAS_DISTRIBUTION_JOB_ADDRESSES` and its companions name them, and one program runs on
all devices. Every process reads its share of each batch, decides the same, and the
first one alone writes and prints. With one process, all of this does nothing.
"""

import atexit
import contextlib
import os
import pickle
import sys

import keras
import numpy as np

from common.command_line import JOB, InputError, launched


def join():
    """Connects this process with the others, if there are any."""
    needed, backend = launched(), keras.config.backend()
    if needed is None:
        return
    if needed != backend:
        launcher = "`torchrun`" if needed == "torch" else JOB
        raise InputError(
            f"{launcher} needs the backend {needed}: with another one each process "
            f"would train a model of its own. Received: KERAS_BACKEND={backend}."
        )
    if backend == "torch":
        import torch

        gpus = torch.cuda.is_available()
        if gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if gpus else "gloo")
            atexit.register(torch.distributed.destroy_process_group)
    else:
        import jax

        if not jax.distributed.is_initialized():
            keras.distribution.initialize()
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )
    if index() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def count():
    if launched() == "torch":
        return int(os.environ["WORLD_SIZE"])
    if launched() == "jax":
        import jax

        return jax.process_count()
    return 1


def index():
    if launched() == "torch":
        return int(os.environ["RANK"])
    if launched() == "jax":
        import jax

        return jax.process_index()
    return 0


def check_batch(size):
    """Raises unless each device has an equal share of a batch."""
    distribution = keras.distribution.distribution()
    parts = distribution.num_model_replicas if distribution else 1
    if size % max(parts, count()):
        raise InputError(
            f"`--batch-size` must be divisible by the {max(parts, count())} devices "
            f"of {count()} processes. Received: {size}."
        )


def gather(value):
    """Returns the values of all processes, in order."""
    if count() == 1:
        return [value]
    if keras.config.backend() == "torch":
        import torch

        values = [None] * count()
        torch.distributed.all_gather_object(values, value)
        return values
    from jax.experimental.multihost_utils import process_allgather

    data = np.frombuffer(pickle.dumps(value), "uint8")
    sizes = process_allgather(np.array(len(data)))
    padded = np.resize(data, int(sizes.max()))
    rows = process_allgather(padded)
    return [pickle.loads(row[:n]) for row, n in zip(rows, sizes, strict=True)]


def whole(variable):
    """Returns a variable as an array, also where its parts lie on several hosts."""
    if count() == 1 or keras.config.backend() == "torch":
        return keras.ops.convert_to_numpy(variable)
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(variable, tiled=True)


def alone():
    """Has models that are loaded from now on predict in this process, by itself.

    Keras' `predict` fails on JAX where other processes have some of the devices.
    """
    if launched() == "jax":
        keras.distribution.set_distribution(None)


@contextlib.contextmanager
def local():
    """Has variables that are made within it belong to this process alone.

    On JAX, others belong to all processes, and so do the arrays computed with them,
    which `fit` does not take for a process's share of a batch.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def rows(size):
    """Returns the rows of a batch of this size that are this process's share."""
    part = size // count()
    return slice(index() * part, (index() + 1) * part)


def average_gradients(model):
    """Has `fit` average gradients over PyTorch's processes; JAX does it by itself."""
    if launched() != "torch":
        return
    from torch.nn.parallel import DistributedDataParallel

    replica = DistributedDataParallel(model)
    # Keras' own step, whose forward pass goes through the replica.
    model.train_step = lambda data: type(model).train_step(Through(replica), data)


class Through:
    """A model that is called through its `DistributedDataParallel`."""

    def __init__(self, replica):
        self.replica = replica

    def __call__(self, *inputs, **options):
        return self.replica(*inputs, **options)

    def __getattr__(self, name):
        return getattr(self.replica.module, name)


class GlobalLogs(keras.callbacks.Callback):
    """Makes the logs of PyTorch's processes those of all rows; JAX's are already.

    Shares of training are equal: the mean of their means is that of all. Of validation,
    which comes last, the metrics still hold their sums and counts, which are added.
    """

    def on_epoch_end(self, epoch, logs=None):
        if launched() != "torch":
            return
        parts = gather({k: v for k, v in logs.items() if not k.startswith("val_")})
        logs.update({k: float(np.mean([p[k] for p in parts])) for k in parts[0]})
        variables = [v for metric in self.model.metrics for v in metric.variables]
        values = gather([keras.ops.convert_to_numpy(v) for v in variables])
        for variable, parts in zip(variables, zip(*values, strict=True), strict=True):
            variable.assign(sum(parts))
        results = self.model.get_metrics_result()
        logs.update({f"val_{name}": float(v) for name, v in results.items()})
