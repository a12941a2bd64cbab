"""Position tables between grids."""

import hypothesis
import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize
from hypothesis import strategies
from scipy import ndimage

import keras_vivit as kv


def model_on(grid, kind="learned"):
    tokens = keras.Input((*grid, 6))
    x = kv.PositionalEncoder(kind, name="position")(tokens)
    model = keras.Model(tokens, kv.ClassToken(name="class_token")(x))
    randomize(model)
    return model


def weights(model):
    return {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}


@pytest.mark.parametrize("kind", ["learned", "factorized"])
def test_weights_of_another_grid_are_resampled(kind, tmp_path):
    small, large = model_on((2, 3, 4), kind), model_on((4, 5, 3), kind)
    small.save_weights(tmp_path / "small.weights.h5")
    large.load_weights(tmp_path / "small.weights.h5")
    before, after = weights(small), weights(large)
    for path, table in after.items():
        expected = before[path]
        if "table" in path:
            expected = kv.resize_position_table(expected, table.shape[:-1])
        np.testing.assert_array_equal(table, expected)


def test_tables_of_another_width_are_refused():
    layer = kv.PositionalEncoder()
    layer.build((None, 2, 3, 4, 8))
    with pytest.raises(ValueError, match="shape"):
        layer.load_own_variables({"0": normal(2, 3, 4, 6)})


def test_table_of_the_same_grid_is_unchanged():
    table = normal(2, 3, 4, 6)
    np.testing.assert_array_equal(kv.resize_position_table(table, (2, 3, 4)), table)


sizes = strategies.tuples(*[strategies.integers(1, 9)] * 3)


@hypothesis.given(old=sizes, new=sizes)
def test_resampling_is_scipys(old, new):
    table = normal(*old, 2)
    zoom = [n / o for n, o in zip(new, old, strict=True)]
    expected = np.stack(
        [
            ndimage.zoom(table[..., i], zoom, order=1, mode="nearest", grid_mode=True)
            for i in range(2)
        ],
        axis=-1,
    )
    resized = kv.resize_position_table(table, new)
    np.testing.assert_allclose(resized, expected, atol=1e-5)


def test_resampling_keeps_constants_and_the_dtype():
    table = np.full((2, 3, 4, 6), 0.5, "float16")
    resized = kv.resize_position_table(table, (5, 2, 9))
    assert resized.dtype == "float16"
    np.testing.assert_array_equal(resized, np.full((5, 2, 9, 6), 0.5))


@pytest.mark.parametrize("grid", [(2, 3), (2, 3, 0), (2, 3, 4, 6)])
def test_wrong_grid_is_refused(grid):
    with pytest.raises(ValueError, match="`grid` must be 3 positive integers"):
        kv.resize_position_table(normal(2, 3, 4, 6), grid)


def test_sincos_fits_any_grid():
    layer = kv.PositionalEncoder("sincos")
    assert layer(keras.Input((2, 3, 4, 6))).shape == (None, 2, 3, 4, 6)
    zeros = np.zeros((1, 5, 6, 2, 6), "float32")
    vectors = flat(layer(zeros))[0].reshape(-1, 6)
    assert len(np.unique(vectors.round(5), axis=0)) == 5 * 6 * 2
    assert not layer.weights
