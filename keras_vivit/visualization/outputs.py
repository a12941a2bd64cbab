"""Functional models with more outputs: tokens between layers, and the rollout."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_vivit import validation
from keras_vivit.types import Shape, Tensor
from keras_vivit.visualization import maps, passes


def with_outputs(model: keras.Model, layer_names: Sequence[str]) -> keras.Model:
    """Returns a model that also returns the outputs of some of the backbone's layers.

    It shares all weights. Unlike the outputs of `keras.Model(model.input, [...])`,
    those of the layers are on the way to the predictions, so that these have gradients
    by them, as Grad-CAM by hand needs.

    Args:
        model: A `ViViTClassifier` or a `ViViTBackbone`.
        layer_names: List of strings, names of layers of the backbone.

    Returns:
        A functional `keras.Model` with a list of outputs: those of the layers, then
        the model's.

    Raises:
        ValueError: If the backbone has no layer of a name.

    Example:
    >>> model = keras_vivit.ViViTClassifier(
    ...     (4, 16, 16, 1), num_classes=3, tubelet_size=(2, 8, 8), embed_dim=16,
    ...     num_layers=2, num_heads=2, mlp_dim=32)
    >>> explained = keras_vivit.visualization.with_outputs(model, ["encoder_block_1"])
    >>> tokens, predictions = explained(np.zeros((1, 4, 16, 16, 1)))
    >>> tokens.shape
    (1, 2, 2, 2, 16)
    """
    backbone = passes.backbone_of(model)
    layer_names = validation.strings("layer_names", layer_names)
    layers = {layer.name: layer for layer in backbone.layers}
    for name in layer_names:
        if name not in layers:
            raise ValueError(
                f"`layer_names` must be layers of the backbone: {', '.join(layers)}. "
                f"Received: {name!r}"
            )
    outputs = [layers[name].output for name in layer_names]
    return keras.Model(backbone.input, [*outputs, _outputs_of(model, backbone)])


def with_rollout(model: keras.Model) -> keras.Model:
    """Returns a model whose second output is the attention rollout.

    It shares all weights, and is meant for export: programs that run it get the map
    without any gradient. Its attention is computed twice, once for the map.

    Args:
        model: A `ViViTClassifier` or a `ViViTBackbone`.

    Returns:
        A functional `keras.Model` with a list of two outputs: the model's, and the
        rollout `(batch, t, h, w)`, see `attention_rollout`.

    Example:
    >>> model = keras_vivit.ViViTClassifier(
    ...     (4, 16, 16, 1), num_classes=3, tubelet_size=(2, 8, 8), embed_dim=16,
    ...     num_layers=2, num_heads=2, mlp_dim=32)
    >>> explained = keras_vivit.visualization.with_rollout(model)
    >>> explained(np.zeros((1, 4, 16, 16, 1)))[1].shape
    (1, 2, 2, 2)
    """
    backbone = passes.backbone_of(model)
    tensors = passes.symbolic_tensors(backbone)
    rollout = _Rollout(backbone, name="rollout")(tensors)
    return keras.Model(backbone.input, [_outputs_of(model, backbone), rollout])


def _outputs_of(model: Any, backbone: keras.Model) -> Any:
    """Returns the model's outputs in the backbone's own graph."""
    x = backbone.output
    if model is backbone:
        return x
    x = model.get_layer("pooling")(x)
    if model.head_norm_epsilon is not None:
        x = model.get_layer("head_norm")(x)
    if isinstance(model.num_classes, dict):
        return {
            name: model.get_layer(name)(model.get_layer(f"{name}_head")(x))
            for name in model.num_classes
        }
    return model.get_layer("predictions")(model.get_layer("head")(x))


class _Rollout(keras.layers.Layer):
    """The rollout of a backbone, from what enters each of its blocks."""

    def __init__(self, backbone: keras.Model, name: str) -> None:
        super().__init__(name=name, dtype="float32", autocast=False)
        self.backbone = backbone
        self.supports_masking = True

    def call(self, tensors: list[Any]) -> Tensor:
        return maps.rollout(passes.pass_of(self.backbone, tensors))

    def compute_mask(self, inputs: list[Any], previous_mask: Any) -> None:
        return None

    def compute_output_shape(self, input_shape: list[Shape]) -> Shape:
        return input_shape[0][:-1]
