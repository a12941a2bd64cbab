"""How the variables of a model are divided among devices."""

import keras

ATTENTION = r"(.*/)?(space_|time_)?attention"
MLP = r"(.*/)?mlp"

# As in Megatron-LM: each branch of a block ends in one sum over the devices.
LAYOUTS = {
    rf"{ATTENTION}/(query|key|value)/kernel": (None, "model", None),
    rf"{ATTENTION}/(query|key|value)/bias": ("model", None),
    rf"{ATTENTION}/output/kernel": ("model", None, None),
    rf"{MLP}/hidden/kernel": (None, "model"),
    rf"{MLP}/hidden/bias": ("model",),
    rf"{MLP}/output/kernel": ("model", None),
}

# Kernels are divided among the copies, too: "data" stands for the axis of the batch.
# Position tables, norms, biases and heads are small.
SHARDED_LAYOUTS = {
    **LAYOUTS,
    rf"{ATTENTION}/(query|key|value)/kernel": ("data", "model", None),
    rf"{ATTENTION}/output/kernel": ("model", None, "data"),
    rf"{MLP}/hidden/kernel": ("data", "model"),
    rf"{MLP}/output/kernel": ("model", "data"),
    r"(.*/)?tubelet_embedding/kernel": (None, None, None, None, "data"),
}


def layout_map(
    device_mesh: keras.distribution.DeviceMesh, fully_sharded: bool = False
) -> keras.distribution.LayoutMap:
    """Returns where `keras.distribution.ModelParallel` puts the variables of a model.

    Heads and the MLPs' hidden layers are divided over the mesh axis `"model"`, whose
    size must divide `num_heads` and `mlp_dim`; all other variables are replicated.
    The state of the optimizer is divided as its variables are. It fits every model and
    block of the package, and models made of them. JAX only, as in Keras.

    `keras.distribution.DataParallel` needs no layout.

    Args:
        device_mesh: A `keras.distribution.DeviceMesh` with an axis `"model"`; the
            batch is divided over its first axis.
        fully_sharded: Boolean, whether to divide kernels over that axis, too, which
            must then divide `embed_dim`: no device has all of a copy, and each kernel
            is gathered when it is used. Less memory, more communication (FSDP, ZeRO-3).

    Returns:
        A `keras.distribution.LayoutMap`.

    Raises:
        ValueError: If the mesh has no second axis `"model"`.

    Example:
    >>> mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"), ["cpu:0"])
    >>> layouts = keras_vivit.layout_map(mesh)
    >>> layouts["encoder_block_0/mlp/hidden/kernel"].axes
    (None, 'model')

    Reference:
        [Megatron-LM, Shoeybi et al., 2019](https://arxiv.org/abs/1909.08053), section 3
        [ZeRO, Rajbhandari et al., 2019](https://arxiv.org/abs/1910.02054), section 5
    """
    if "model" not in getattr(device_mesh, "axis_names", ())[1:]:
        raise ValueError(
            '`device_mesh` must have an axis "model" after that of the batch. '
            f"Received: axis_names={getattr(device_mesh, 'axis_names', None)}"
        )
    layouts = keras.distribution.LayoutMap(device_mesh)
    data = device_mesh.axis_names[0]
    for path, axes in (SHARDED_LAYOUTS if fully_sharded else LAYOUTS).items():
        layouts[path] = tuple(data if axis == "data" else axis for axis in axes)
    return layouts
