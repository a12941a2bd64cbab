"""Weights of other implementations: Scenic, `transformers`, VideoMAE, and MONAI.

Every format gives its tensors Scenic's names (`names.py`), and each tensor is used
once, or named in an error.
"""

import contextlib
import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_vivit import presets, validation
from keras_vivit.blocks import FactorizedSelfAttentionBlock
from keras_vivit.checkpoints import (
    architecture,
    names,
    pixels,
    preset_folder,
    tubelet_kernels,
)
from keras_vivit.checkpoints.hub import upload_preset
from keras_vivit.checkpoints.names import (
    BIAS,
    DECODER,
    DECODER_EMBEDDING,
    DECODER_TABLE,
    FINAL_NORM,
    HEAD,
    HEAD_NORM,
    KERNEL,
    TABLE,
)
from keras_vivit.checkpoints.optimizers import other_grids
from keras_vivit.checkpoints.preset_folder import save as save_to_preset
from keras_vivit.checkpoints.sources import path_of, read
from keras_vivit.checkpoints.tensors import Checkpoint, Tensor, Tensors
from keras_vivit.checkpoints.transformers import save_to_transformers
from keras_vivit.embeddings import AXES
from keras_vivit.positions import sequence_table
from keras_vivit.types import Shape

__all__ = [
    "arguments_for",
    "load",
    "load_image_model",
    "other_grids",
    "read",
    "save_to_preset",
    "save_to_transformers",
    "upload_preset",
]

Arguments = dict[str, Any]


def load(
    model_class: type[keras.Model],
    source: Any,
    head: bool,
    source_video_shape: Shape | None = None,
    **overrides: Any,
) -> Any:
    """Builds a model with a checkpoint's weights, see `ViViTClassifier.from_preset`.

    `head` says whether `model_class` has one. A decoder is loaded where the class has
    arguments of one.
    """
    saved = None
    if source_video_shape is not None:
        source_video_shape = validation.positive_ints(
            "source_video_shape", source_video_shape, (*AXES, "channels")
        )
    if not isinstance(source, keras.Model) and str(source) not in presets.PRESETS:
        source = path_of(source)
        saved = source if preset_folder.is_one(source) else None
    if saved and not overrides and source_video_shape is None:
        model = preset_folder.load(saved)
        whole = type(model) is model_class
        part = model if whole else getattr(model, "backbone", model)
        if type(part) is model_class:
            part.sampling = model.sampling
            return part
    checkpoint, settings = _open(source, overrides)
    tensors = checkpoint.tensors
    if head and f"{HEAD}/kernel" not in tensors and checkpoint.new_head:
        settings |= checkpoint.new_head
        tensors = _without(tensors, FINAL_NORM)
    arguments = presets.override(settings, overrides)
    if "video_shape" not in arguments:
        raise ValueError(
            "`video_shape` must be given: the checkpoint does not tell it. "
            f"Received: source={str(source)!r}"
        )
    video_shape = source_video_shape or settings.get("video_shape")
    tensors, arguments = _fit_channels(tensors, arguments)
    tensors = _with_table(tensors, settings, video_shape or arguments["video_shape"])
    new = ""
    if "decoder_dim" not in inspect.signature(model_class).parameters:
        tensors = _without(tensors, DECODER)
    elif DECODER_EMBEDDING not in tensors:
        new = DECODER
    if not head:
        tensors = _without(tensors, HEAD, HEAD_NORM)
    elif not _same_classes(arguments, settings):
        tensors = _without(tensors, HEAD)
        new = HEAD if f"{HEAD_NORM}/scale" in tensors else f"{HEAD}|{HEAD_NORM}"
    grid = _grid(settings, video_shape)
    with initial_values() as values:
        model = model_class(**arguments_for(model_class, arguments))
        values += names.match(names.layers_of(model), tensors, grid, new)
    if saved:
        model.sampling = preset_folder.sampling_of(saved)
    return model


def arguments_for(model_class: type[keras.Model], arguments: Arguments) -> Arguments:
    """Returns the arguments of another model that a class has, too."""
    known: set[str] = set()
    for cls in model_class.mro():
        parameters = inspect.signature(cls).parameters
        known.update(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break  # Otherwise the next class takes what this one passes on.
    return {name: value for name, value in arguments.items() if name in known}


def load_image_model(
    model_class: type[keras.Model],
    source: Any,
    video_shape: Shape,
    tubelet_size: Shape | None = None,
    tubelet_init: str = "central_frame",
    **overrides: Any,
) -> Any:
    """See `ViViTBackbone.from_image_preset`."""
    stretch = {
        "central_frame": lambda kernel, n: tubelet_kernels.central_frame(kernel[0], n),
        "inflate": tubelet_kernels.resample,
    }[validation.choice("tubelet_init", tubelet_init, ("central_frame", "inflate"))]
    checkpoint, settings = _open(source, {})
    if settings["tubelet_size"][0] != 1 or settings["video_shape"][0] != 1:
        raise ValueError(f"`source` must be an image model. Received: {source}")
    grid = _grid(settings, settings["video_shape"])
    for name in ("pooling", "variant", "video_shape", *presets.HEAD_ARGUMENTS):
        settings.pop(name, None)
    arguments = {
        **settings,
        **overrides,
        "video_shape": video_shape,
        "tubelet_size": tubelet_size or (2, *settings["tubelet_size"][1:]),
    }
    tensors, arguments = _fit_channels(checkpoint.tensors, arguments)
    with initial_values() as values:
        model = model_class(**arguments)
        kept = {
            names.in_variant(name, model.variant): tensor
            for name, tensor in _without(tensors, HEAD).items()
            if name != "cls" or model.pooling == "token"
        }
        new = "TemporalTransformer|cls_Temporal|.*_time/"
        values += names.match(names.layers_of(model), kept, grid, new, stretch)
    # The model starts as the image model; its time attention grows from nothing.
    for layer in model.layers:
        if isinstance(layer, FactorizedSelfAttentionBlock):
            kernel = layer.time_attention.output_dense.kernel
            kernel.assign(np.zeros(kernel.shape))
    return model


@contextlib.contextmanager
def initial_values() -> Iterator[list[Any]]:
    """Gives the variables that are made inside their values from a checkpoint.

    Yields:
        An empty list, to be filled with pairs of a variable and a function that reads
        its value. Variables that it does not name start as their initializers say.
    """
    values: list = []
    unread: dict = {}

    def initializer(variable: keras.Variable, read: Callable[[], Any]) -> Any:
        def initialize(shape: Shape, dtype: Any = None) -> Any:
            try:
                value = keras.ops.cast(read(), dtype)
            except Exception:
                # Keras must go on with the other variables; the second reading, below,
                # raises the error again.
                return keras.ops.zeros(shape, dtype)
            unread.pop(id(variable), None)
            return value

        return initialize

    try:
        with keras.StatelessScope(initialize_variables=False):
            yield values
        for variable, read in values:
            unread[id(variable)] = (variable, read)
            # Keras has no public way to leave out the random values, which take most
            # of the time and half of the memory. Where this attribute has no effect,
            # the values are assigned below.
            with contextlib.suppress(AttributeError):
                variable._initializer = initializer(variable, read)
    finally:
        with keras.StatelessScope():
            pass  # Leaving a scope runs the deferred initializers.
    for variable, read in list(unread.values()):
        variable.assign(read())


def _open(source: Any, overrides: Arguments) -> tuple[Checkpoint, Arguments]:
    """Returns a checkpoint, and all constructor arguments that it tells."""
    checkpoint = read(source, overrides)
    settings = {"rescaling": pixels.RESCALING, **checkpoint.settings}
    known = {**settings, **overrides}
    arguments = architecture.arguments_of(checkpoint.tensors, known)
    return checkpoint, {**arguments, **settings}


def _grid(settings: Arguments, video_shape: Shape | None) -> Shape | None:
    """The grid of a checkpoint's position table; None: that of the new model."""
    if video_shape is None or None in video_shape:
        return None
    return names.grid_of(
        video_shape,
        settings["tubelet_size"],
        settings.get("strides"),
        settings.get("padding", "valid"),
    )


def _with_table(tensors: Tensors, settings: Arguments, video_shape: Shape) -> Tensors:
    """Adds the position tables of a VideoMAE, which computes them."""
    if settings.get("position_kind") != "sequence":
        return tensors
    tokens = math.prod(names.grid_of(video_shape, settings["tubelet_size"]))
    tables = {TABLE: settings["embed_dim"]}
    if DECODER_EMBEDDING in tensors:
        tables[DECODER_TABLE] = settings["decoder_dim"]
    computed = {
        name: Tensor((1, tokens, width), functools.partial(_table, tokens, width))
        for name, width in tables.items()
    }
    return {**computed, **tensors}


def _table(tokens: int, width: int) -> np.ndarray:
    return sequence_table(tokens, width)[None]


def _fit_channels(tensors: Tensors, arguments: Arguments) -> tuple[Tensors, Arguments]:
    """Fits the tubelet kernel, bias and `rescaling` to a video with one channel."""
    video_shape, rescaling = arguments["video_shape"], arguments["rescaling"]
    is_shape = isinstance(video_shape, list | tuple) and len(video_shape) == 4
    channels = video_shape[-1] if is_shape else None
    kernel, bias = tensors[KERNEL], tensors.get(BIAS)
    if channels != 1 or kernel.shape[-2] == 1 or bias is None:
        return tensors, arguments
    if rescaling is not None:
        pair = rescaling if isinstance(rescaling, list | tuple) else ()
        if {np.size(x) for x in pair} - {1, kernel.shape[-2]} or len(pair) != 2:
            return tensors, arguments  # The constructor refuses them.
        first = tuple(np.ravel(x)[0].item() for x in rescaling)
        arguments = {**arguments, "rescaling": first}

    @functools.cache
    def folded() -> tuple[np.ndarray, np.ndarray]:
        return tubelet_kernels.sum_channels(kernel.read(), bias.read(), rescaling)

    tensors = {
        **tensors,
        KERNEL: Tensor((*kernel.shape[:-2], 1, kernel.shape[-1]), lambda: folded()[0]),
        BIAS: Tensor(bias.shape, lambda: folded()[1]),
    }
    return tensors, arguments


def _without(tensors: Tensors, *layers: str) -> Tensors:
    prefixes = tuple(f"{layer}/" for layer in layers)
    return {name: x for name, x in tensors.items() if not name.startswith(prefixes)}


def _same_classes(arguments: Arguments, settings: Arguments) -> bool:
    """Returns whether the checkpoint's head has the model's classes; warns if not."""
    if "num_classes" not in arguments:
        raise ValueError("`num_classes` must be given: the checkpoint has no head.")
    classes = arguments["num_classes"]
    total = sum(classes.values()) if isinstance(classes, dict) else classes
    if "num_classes" in settings and total != settings["num_classes"]:
        warnings.warn(
            f"The checkpoint's head for {settings['num_classes']} classes gives way to "
            f"a new one, not yet trained. Received: num_classes={classes}",
            stacklevel=4,
        )
    return total == settings.get("num_classes")
