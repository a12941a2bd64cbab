"""Scenic's own logits, from its own checkpoints; see `parity/scenic/README.md`."""

import keras
import numpy as np
import pytest
from scenic import assert_close, case_names, load_scenic, read_case, unset_weights

import keras_vivit

NAMES = case_names()


def build(settings, **kwargs):
    with unset_weights():
        return keras_vivit.ViViTClassifier(
            **settings, classifier_activation=None, **kwargs
        )


def test_all_eleven_cases_are_found():
    assert len(NAMES) == 11


def check_logits(name, **kwargs):
    case = read_case(name)
    model = build(case.settings, **kwargs)
    load_scenic(model, case.params)
    # Compiled: JAX takes twice as long to compile a new size operation by operation.
    assert_close(model.predict_on_batch(case.inputs), case.logits)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_scenics(name):
    check_logits(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("odd")])
def test_logits_are_scenics_with_remat(name):
    check_logits(name, remat=True)


def test_the_order_of_variant_3_matters():
    # Guards the two order cases: with the wrong order the logits must be off.
    case = read_case("odd_m3_space_time")
    model = build({**case.settings, "attention_order": "time_space"})
    load_scenic(model, case.params)
    logits = model.predict_on_batch(case.inputs)
    assert np.abs(logits - case.logits).max() > 1e-3


@pytest.mark.parametrize("name", ["odd_m1_token", "odd_m2_token", "odd_m3_space_time"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "Missing from the tree: .*encoderblock_1"),
        ("extra", "Unused: .*encoderblock_9"),
        ("wrong kernel", "embedding/kernel must have the shape of"),
        ("swapped axes", "embedding/kernel must have the shape of"),
        ("wrong table", "pos_embedding.* must have the shape of"),
    ],
)
def test_a_tree_that_does_not_fit_is_refused(name, change, message):
    case = read_case(name)
    params = dict(case.params)
    block = next(k for k in params if "encoderblock_1" in k)
    table = next(k for k in params if k.endswith("pos_embedding"))
    if change == "missing":
        del params[block]
    elif change == "extra":
        params[block.replace("encoderblock_1", "encoderblock_9")] = params[block]
    elif change == "wrong kernel":
        params["embedding/kernel"] = params["embedding/kernel"][:-1]
    elif change == "swapped axes":
        params["embedding/kernel"] = params["embedding/kernel"].swapaxes(0, 2)
    else:
        params[table] = params[table][:, :-1]
    model = build(case.settings)
    before = [keras.ops.convert_to_numpy(w) for w in model.weights]
    with pytest.raises(ValueError, match=message):
        load_scenic(model, params)
    # A refused tree leaves the model as it was.
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)
