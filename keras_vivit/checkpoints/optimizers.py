"""The optimizer's state in Keras' own files, for models of another grid."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_vivit.positions import PositionalEncoder, resize_position_table


@contextlib.contextmanager
def other_grids(model: keras.Model) -> Iterator[None]:
    """Inside, an optimizer loads the state of a model with other position tables.

    Moments of a table of another size start at zero, its moving average is resampled.

    Raises:
        ValueError: If another part of the state does not fit.
    """
    prefixes = tuple(
        f"{table.path.replace('/', '_')}_"
        for layer in model._flatten_layers()
        if isinstance(layer, PositionalEncoder)
        for table in layer.weights
    )
    optimizer = getattr(model, "optimizer", None)
    with contextlib.ExitStack() as stack:
        for variable in optimizer.variables if optimizer else ():
            # Keras names the state of a weight after the weight's path.
            of_table = bool(prefixes) and variable.name.startswith(prefixes)
            assign = functools.partial(_assign, variable, variable.assign, of_table)
            variable.assign = assign
            stack.callback(delattr, variable, "assign")
        yield


def _assign(
    variable: keras.Variable, assign: Callable[[Any], Any], of_table: bool, value: Any
) -> Any:
    old, new = tuple(np.shape(value)), tuple(variable.shape)
    if old == new:
        return assign(value)
    if not of_table or len(old) != len(new):
        raise ValueError(
            f"The saved state of the optimizer must fit the model: {variable.path} has "
            f"the shape {new}. Received: shape={old}. Build the model as it was saved, "
            "or load the weights before `compile`."
        )
    if variable.name.endswith("_average"):
        return assign(resize_position_table(np.asarray(value), new[:-1]))
    return assign(np.zeros(new))
