"""Keras' own test of layers, on every public layer and model."""

import pytest
from cases import CASES, VIDEO, Case

from keras_vivit import augmentation

testing = pytest.importorskip("keras.src.testing", reason="needs absl-py")

pytestmark = [
    pytest.mark.slow,
    # It shuffles what cannot be shuffled, and trains layers without weights.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:.* any trainable weights:UserWarning"),
]
# Layers that take dictionaries are left out: the suite passes entries as arguments.
ROWS = [
    *(case for case in CASES if not isinstance(case.input_shape, dict)),
    Case(augmentation.RandomFlip, {"axis": "height", "seed": 7}, VIDEO, VIDEO),
]


@pytest.fixture
def suite():
    test_case = testing.TestCase()
    test_case.setUp()
    yield test_case
    test_case.doCleanups()


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
def test_layer_passes(case, suite):
    suite.run_layer_test(
        case.layer,
        case.arguments,
        input_shape=case.input_shape,
        expected_output_shape=case.output_shape,
    )
