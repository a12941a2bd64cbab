"""Dividing a training among the devices of one machine. JAX only."""

import keras
import numpy as np

import keras_vivit
from common import processes
from common.command_line import InputError, launched
from keras_vivit.presets import PRESETS


def distribute(count, parts, configuration):
    """Has Keras divide batches among the devices, and each model among `parts`.

    Args:
        count: Integer, number of devices, or `None` for all.
        parts: Integer, devices that share one copy of the model.
        configuration: Dictionary, see `configs.py`.
    """
    if launched():
        raise InputError(
            "`--devices` and `--model-parallel` must be left out where several "
            "processes train: they use all devices. "
            f"Received: {processes.count()} processes."
        )
    devices = keras.distribution.list_devices()
    count = len(devices) if count is None else count
    if count > len(devices):
        raise InputError(
            f"`--devices` must not exceed the {len(devices)} that JAX has (on CPUs, "
            "XLA_FLAGS=--xla_force_host_platform_device_count=N makes virtual ones). "
            f"Received: {count}."
        )
    check_parts(count, parts, configuration)
    mesh = keras.distribution.DeviceMesh(
        (count // parts, parts), ("batch", "model"), devices[:count]
    )
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=keras_vivit.layout_map(mesh))
    )
    print(f"Devices: {count // parts} x {parts} (batch x model).")


def check_parts(count, parts, configuration):
    if count % parts:
        raise InputError(
            f"`--model-parallel` must divide the {count} devices. Received: {parts}."
        )
    model = {
        **PRESETS[configuration["preset"]]["config"],
        **configuration["model"],
        **configuration["variants"].get(configuration["variant"], {}),
    }
    for name in ("num_heads", "mlp_dim"):
        if model[name] % parts:
            raise InputError(
                f"`--model-parallel` must divide {name}={model[name]}. "
                f"Received: {parts}."
            )
    if configuration["batch_size"] % (count // parts):
        raise InputError(
            f"`--batch-size` must be divisible by the {count // parts} copies of the "
            f"model. Received: {configuration['batch_size']}."
        )


def shares():
    """Returns the number of equal shares that a batch is divided into."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.num_model_replicas


def fill_up(array, multiple):
    """Repeats rows of an array until their number is a multiple."""
    return array[
        np.resize(np.arange(len(array)), -(-len(array) // multiple) * multiple)
    ]


def with_weights(images, labels):
    """Returns a process's share of both, and weights; devices have equal parts.

    Rows are repeated for that, and weigh nothing; the others weigh so much more that
    losses, which Keras divides by the number of rows, are those of the given rows.
    """
    parts = max(shares(), processes.count())
    if parts == 1:
        return images, labels
    images, filled = fill_up(images, parts), fill_up(labels, parts)
    real = np.arange(len(filled)) < len(labels)
    weights = (real * len(filled) / len(labels)).astype("float32")
    rows = processes.rows(len(filled))
    return images[rows], filled[rows], weights[rows]
