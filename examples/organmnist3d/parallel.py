"""Dividing a training among the devices of one machine. JAX only."""

import keras
import numpy as np
from data import InputError

import keras_vivit
from keras_vivit.presets import PRESETS


def distribute(count, parts, configuration):
    """Has Keras divide batches among the devices, and each model among `parts`.

    Args:
        count: Integer, number of devices, or `None` for all.
        parts: Integer, devices that share one copy of the model.
        configuration: Dictionary, see `configs.py`.
    """
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


def complete(*arrays):
    """Repeats rows until the shares are equal; the repeated ones have no weight."""
    count = len(arrays[0])
    if shares() == 1:
        return arrays
    rows = np.resize(np.arange(count), -(-count // shares()) * shares())
    weights = (np.arange(len(rows)) < count).astype("float32")
    return (*(array[rows] for array in arrays), weights)
