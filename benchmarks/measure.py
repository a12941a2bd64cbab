"""One case in a process of its own; `run.py` starts it and reads the JSON it prints.

KERAS_BACKEND=jax python benchmarks/measure.py '{"kind": "gemm", ...}'
"""

import importlib
import json
import os
import statistics
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import peers
from devices import Device, gpu_name
from sizes import MODELS, SIZES

LEARNING_RATE = 1e-4


class Subject(NamedTuple):
    """What is measured: functions that return when the device is done."""

    train: Any
    predict: Any
    parameters: int


def measure_model(case, size):
    """Returns seconds and bytes of a model's training steps and predictions."""
    videos, labels = inputs(size)
    device = Device(case)
    load_packages(case)
    if "without" in case:
        from keras_vivit import fast

        delattr(fast.module(), case["without"])
    before = device.memory()
    subject = build(case, size, videos, labels, device)
    first = seconds_of(subject.train)
    training = sample(subject.train)
    peak = device.peak_memory() - before
    first_prediction = seconds_of(subject.predict)
    prediction = sample(subject.predict)
    return {
        "parameters": subject.parameters,
        "first_step": first,
        "first_prediction": first_prediction,
        "train": statistics.median(training),
        "train_best": min(training),
        "predict": statistics.median(prediction),
        "predict_best": min(prediction),
        "memory": peak,
    }


def load_packages(case):
    """Imports what a case would import later: it is no memory of the model's."""
    package = MODELS[case["model"]].package
    names = {
        None: ("keras", "keras_vivit"),
        "keras": ("keras",),
        "transformers": ("transformers.models.vivit.modeling_vivit",),
        "vit_pytorch": (),
    }[package]
    # Optimizers of PyTorch import its compiler in their first step.
    lazy = ("torch._dynamo",) if case["backend"] == "torch" else ()
    for name in (*lazy, *names):
        importlib.import_module(name)


def inputs(size):
    rng = np.random.default_rng(0)
    videos = rng.random((size.batch, *size.video), "float32")
    return videos, rng.integers(size.num_classes, size=size.batch)


def seconds_of(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def sample(function, warm_up=2, seconds=3.0, at_least=3, at_most=20):
    """Times a function after some calls that do not count."""
    for _ in range(warm_up):
        function()
    samples: list[float] = []
    while len(samples) < at_least or (
        len(samples) < at_most and sum(samples) < seconds
    ):
        samples.append(seconds_of(function))
    return samples


def build(case, size, videos, labels, device):
    name, model = case["model"], MODELS[case["model"]]
    if model.package not in (None, "keras"):
        return torch_subject(name, case, size, videos, labels, device)
    import keras

    keras.config.set_dtype_policy(case["dtype"])
    if model.package:
        return keras_subject(peers.keras_example(size), case, videos, labels, device)
    import keras_vivit
    from keras_vivit.backbone import VARIANTS

    ours = keras_vivit.ViViTClassifier(
        size.video,
        size.num_classes,
        tubelet_size=size.tubelet,
        variant=list(VARIANTS)[model.variant - 1],
        embed_dim=size.embed_dim,
        num_layers=size.num_layers,
        num_temporal_layers=size.num_temporal_layers,
        num_heads=size.num_heads,
        mlp_dim=size.mlp_dim,
        pooling="token" if model.class_token else "mean",
        remat=model.remat,
        activation=size.activation,
    )
    return keras_subject(ours, case, videos, labels, device)


def keras_subject(model, case, videos, labels, device):
    """A Keras model, through the functions that a user calls."""
    import keras

    optimizers = {"adamw": keras.optimizers.AdamW, "sgd": keras.optimizers.SGD}
    model.compile(
        optimizer=optimizers[case.get("optimizer", "adamw")](LEARNING_RATE),
        loss="sparse_categorical_crossentropy",
        jit_compile=True if case["compiled"] else "auto",
    )
    model.optimizer.build(model.trainable_variables)  # as docs/performance.md advises
    videos, labels = map(keras.ops.convert_to_tensor, (videos, labels))

    def train():
        loss = model.train_on_batch(videos, labels)
        device.synchronize()
        return loss

    return Subject(train, lambda: model.predict_on_batch(videos), model.count_params())


def torch_subject(name, case, size, videos, labels, device):
    """A PyTorch module in a plain loop; its weights are float32 in any precision."""
    import torch

    torch.manual_seed(0)
    module, arrange = peers.torch_peer(name, size)
    place = "cuda" if case["device"] == "gpu" else "cpu"
    module.to(place)
    parameters = sum(weight.numel() for weight in module.parameters())
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE)
    videos = torch.from_numpy(np.ascontiguousarray(arrange(videos))).to(place)
    labels = torch.from_numpy(labels).to(place)
    call = torch.compile(module) if case["compiled"] else module
    half = case["dtype"] == "mixed_bfloat16"

    def logits():
        with torch.autocast(place, torch.bfloat16, enabled=half):
            outputs = call(videos)
        return getattr(outputs, "logits", outputs).float()

    def train():
        if not module.training:  # Switching visits every module.
            module.train()
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(), labels)
        loss.backward()
        optimizer.step()
        loss = loss.item()
        device.synchronize()
        return loss

    def predict():
        if module.training:
            module.eval()
        with torch.inference_mode():
            return logits().softmax(-1).cpu().numpy()

    return Subject(train, predict, parameters)


def measure_gemm(case, side=None):
    """Returns the operations per second of a large matrix product."""
    from keras import ops

    side = side or (8192 if case["device"] == "gpu" else 2048)
    products = 4  # in one go, so that waiting for the device weighs little
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((side, side), "float32") / side**0.5
    matrix = ops.cast(ops.convert_to_tensor(matrix), case["dtype"])

    def multiply():
        result = matrix
        for _ in range(products):
            result = ops.matmul(matrix, result)
        return float(ops.convert_to_numpy(ops.cast(result[0, 0], "float32")))

    return {"operations": 2 * side**3 * products / min(sample(multiply, seconds=2.0))}


def measure(case):
    match case["kind"]:
        case "probe":
            return {"gpu": gpu_name(case["backend"])}
        case "gemm":
            return measure_gemm(case)
        case "model":
            return measure_model(case, SIZES[case["size"]])
        case "data":
            import datapath

            return datapath.measure(case)


if __name__ == "__main__":
    case = json.loads(sys.argv[1])
    if hasattr(os, "sched_setaffinity"):  # All frameworks count these processors.
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, processors[: case["threads"]])
    print(json.dumps(measure(case)))
