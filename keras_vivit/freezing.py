"""Frozen sublayers: they are made anew from their parent's config, which names them."""

from collections.abc import Callable
from typing import Any

import keras

from keras_vivit.types import Config

KEY = "frozen"  # in a config only if there are any


def config_of(layer: keras.layers.Layer) -> Config:
    """Returns the entry for a layer's config: paths of frozen layers in it, if any."""
    paths = _frozen_in(layer, "") if layer.trainable else []
    return {KEY: paths} if paths else {}


def _frozen_in(layer: keras.layers.Layer, prefix: str) -> list[str]:
    paths = []
    for child in _children(layer):
        path = f"{prefix}{child.name}"
        paths += _frozen_in(child, f"{path}/") if child.trainable else [path]
    return paths


def freeze(layer: keras.layers.Layer, paths: list[str]) -> None:
    """Freezes the layers that `config_of` has named."""
    for path in paths:
        found = layer
        for name in path.split("/"):
            (found,) = (child for child in _children(found) if child.name == name)
        found.trainable = False


def from_config(make: Callable[[Config], Any], config: Config) -> Any:
    """Makes a layer from a config, and freezes what was frozen, now or when built."""
    config = dict(config)
    layer = make({key: value for key, value in config.items() if key != KEY})
    layer.frozen_when_built = config.get(KEY, [])
    if layer.built:
        freeze(layer, layer.frozen_when_built)
    return layer


def _children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    children = layer._flatten_layers(include_self=False, recursive=False)
    return list({id(child): child for child in children}.values())
