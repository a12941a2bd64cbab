"""Switches of the library."""

import os

_fast_paths = os.environ.get("KERAS_VIVIT_FAST", "1") != "0"


def enable_fast_paths() -> None:
    """Lets layers compute in the fastest way that the backend has (the default).

    A model that is compiled already keeps the way that it was compiled with.
    """
    global _fast_paths
    _fast_paths = True


def disable_fast_paths() -> None:
    """Has layers compute in plain `keras.ops` alone: the same numbers, more slowly.

    The environment variable `KERAS_VIVIT_FAST=0` does it from the start. A model that
    is compiled already keeps the way that it was compiled with.
    """
    global _fast_paths
    _fast_paths = False


def is_fast_paths_enabled() -> bool:
    """Returns whether layers may use the code of `keras_vivit/fast/`."""
    return _fast_paths
