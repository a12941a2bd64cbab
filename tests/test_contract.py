"""Every public layer and model keeps the same contract, row by row of `cases.py`."""

import inspect
import json

import keras
import numpy as np
import pytest
from cases import CASES
from helpers import arrays, flat, randomize

import keras_vivit as kv

MODELS = (kv.ViViTBackbone, kv.ViViTClassifier, kv.ViViTMaskedAutoencoder)
# Keras writes the first one where it is set, and never the second.
UNWRITTEN = {"activity_regularizer", "autocast"}
rows = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def make(case, **changes):
    return case.layer(**{**case.arguments, **changes})


def built(case, **changes):
    layer = make(case, **changes)
    if not isinstance(layer, keras.Model):
        layer.build(case.input_shape)
    randomize(layer)
    return layer


def is_augmentation(case):
    return case.layer.__name__ in kv.augmentation.__all__


def as_model(case):
    layer = make(case)
    if not isinstance(layer, keras.Model):
        if isinstance(case.input_shape, dict):
            shapes = case.input_shape.items()
            inputs = {name: keras.Input(s[1:], name=name) for name, s in shapes}
        else:
            inputs = keras.Input(case.input_shape[1:])
        layer = keras.Model(inputs, layer(inputs))
    randomize(layer)
    return layer


def shapes(outputs):
    return keras.tree.map_structure(lambda x: tuple(x.shape), outputs)


def with_batch(shapes, batch):
    return keras.tree.map_shape_structure(lambda s: (batch, *s[1:]), shapes)


def test_every_public_layer_has_a_row():
    public = {n for n in kv.__all__ if inspect.isclass(getattr(kv, n))}
    public |= set(kv.augmentation.__all__)
    assert public == {case.layer.__name__ for case in CASES}
    for case in CASES:
        others = [c for c in CASES if c.layer is case.layer]
        assert any(c.wrong for c in others), f"{case.name} has no wrong inputs"


@rows
def test_config_holds_the_arguments_and_survives_json(case):
    layer = make(case, dtype=keras.DTypePolicy("mixed_bfloat16"))
    config = json.loads(json.dumps(layer.get_config()))
    parameters = inspect.signature(case.layer).parameters
    assert all(parameter.kind == 1 for parameter in parameters.values())
    # A backbone's arguments stand in its place.
    assert set(config) == set(parameters) - UNWRITTEN - {"backbone"}
    again = case.layer.from_config(config)
    assert json.loads(json.dumps(again.get_config())) == config


@rows
def test_unknown_argument_is_refused(case):
    with pytest.raises(TypeError, match="num_hedas"):
        make(case, num_hedas=2)


@rows
def test_symbolic_declared_and_eager_shapes_agree(case):
    model = as_model(case)
    assert shapes(model.output) == with_batch(case.output_shape, None)
    layer = make(case)
    if not isinstance(layer, keras.Model):
        assert layer.compute_output_shape(case.input_shape) == case.output_shape
    outputs = model(arrays(with_batch(case.input_shape, 1)))
    assert shapes(outputs) == with_batch(case.output_shape, 1)
    assert shapes(model(arrays(case.input_shape))) == case.output_shape


@rows
def test_saved_model_gives_the_same_outputs(case, tmp_path):
    model = as_model(case)
    x = arrays(case.input_shape)
    before = flat(model(x, training=False))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for a, b in zip(before, flat(again(x, training=False)), strict=True):
        np.testing.assert_array_equal(a, b)


@rows
def test_mixed_precision_computes_in_half_and_keeps_weights_in_full(case):
    full, half = built(case), built(case, dtype="mixed_bfloat16")
    assert {v.dtype for v in half.trainable_variables} <= {"float32"}
    x = arrays(case.input_shape)
    outputs = keras.tree.flatten(half(x))
    in_full = case.layer in MODELS[1:] or is_augmentation(case)
    expected = "float32" if in_full else "bfloat16"
    assert {keras.backend.standardize_dtype(y.dtype) for y in outputs} == {expected}
    for a, b in zip(flat(full(x)), flat(outputs), strict=True):
        np.testing.assert_allclose(a, b, atol=0.2, rtol=0.1)


@rows
def test_one_training_step_changes_every_weight(case):
    model = as_model(case)
    if not model.trainable_variables:
        pytest.skip("has no weights")
    # Enough samples that stochastic depth leaves some in every branch.
    targets = arrays(with_batch(case.output_shape, 16))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [v.numpy().copy() for v in model.trainable_variables]
    model.fit(arrays(with_batch(case.input_shape, 16)), targets, verbose=0)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        # Softmax does not see a shift of all scores, so key biases have no gradient.
        if not variable.path.endswith("key/bias"):
            assert np.any(variable.numpy() != old), variable.path


@rows
def test_dropout_is_inert_at_inference_and_reproducible_with_a_seed(case):
    layer, twin = built(case), built(case)
    x = arrays(case.input_shape)
    first = flat(layer(x, training=False))
    if not is_augmentation(case):  # As Keras' own, it augments in a bare call.
        for a, b in zip(first, flat(layer(x)), strict=True):
            np.testing.assert_array_equal(a, b)
    if "seed" not in case.arguments:
        pytest.skip("has no dropout")
    dropped, again = flat(layer(x, training=True)), flat(twin(x, training=True))
    for a, b, c in zip(first, dropped, again, strict=True):
        assert np.any(a != b)
        np.testing.assert_array_equal(b, c)


@rows
def test_masked_tokens_have_no_influence(case):
    if case.layer in MODELS:
        pytest.skip("masks of models are in test_backbone.py")
    if is_augmentation(case):
        pytest.skip("comes before there is a mask")
    layer = built(case)
    mask = np.random.default_rng(0).random(case.input_shape[:-1]) < 0.6
    if case.layer is kv.TubeletEmbedding:
        mask[:, 2:] = False
    mask.reshape(3, -1)[:, 0] = True
    x = arrays(case.input_shape)
    options = {}
    if "mask" in inspect.signature(layer.call).parameters:
        options["mask"] = keras.ops.convert_to_tensor(mask)
    kept = layer.compute_mask(
        keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(mask)
    )
    expected = flat(layer(x, **options))[0]
    if kept is None:
        kept = np.ones(expected.shape[:-1], bool)
    kept = keras.ops.convert_to_numpy(kept)
    assert kept.shape == expected.shape[:-1]
    for noise in (100 * arrays(case.input_shape, seed=5), np.nan, np.inf, -np.inf):
        noisy = np.where(mask[..., None], x, noise).astype("float32")
        found = flat(layer(noisy, **options))[0]
        np.testing.assert_array_equal(found[kept], expected[kept])


@pytest.mark.parametrize(
    ("case", "changes", "shape", "words"),
    [
        pytest.param(case, *wrong, id=f"{case.name}-{i}")
        for case in CASES
        for i, wrong in enumerate(case.wrong)
    ],
)
def test_wrong_input_gets_the_worded_error(case, changes, shape, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        make(case, **changes).build(shape or case.input_shape)
