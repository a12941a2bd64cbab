"""Keras' own test of layers, on every public layer and model."""

import pytest
from cases import CASES, VIDEO

from keras_vivit import DropPath, augmentation

testing = pytest.importorskip("keras.src.testing", reason="needs absl-py")

pytestmark = [
    pytest.mark.slow,
    # It shuffles what cannot be shuffled, and trains layers without weights.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:.* any trainable weights:UserWarning"),
]
# The suite passes the entries of a dictionary as arguments; these take a dictionary.
LEFT_OUT = (augmentation.MixUp, augmentation.CutMix)
rows = [case for case in CASES if case.layer not in LEFT_OUT]


@pytest.fixture
def suite():
    test_case = testing.TestCase()
    test_case.setUp()
    yield test_case
    test_case.doCleanups()


@pytest.mark.parametrize("case", rows, ids=lambda case: case.name)
def test_layer_passes(case, suite):
    arguments, shapes = case.arguments, (case.input_shape, case.output_shape)
    if case.layer is augmentation.RandomFlip:
        arguments, shapes = {**arguments, "label_permutation": None}, (VIDEO, VIDEO)
    input_shape, output_shape = shapes
    suite.run_layer_test(
        case.layer,
        arguments,
        input_shape=input_shape,
        expected_output_shape=output_shape,
        assert_built_after_instantiation=case.layer is DropPath,
    )
