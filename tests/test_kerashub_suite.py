"""KerasHub's own test of backbones and presets."""

import keras
import pytest
from helpers import SMALL, SMALL_VIDEO, normal

import keras_vivit as kv
from keras_vivit.backbone import VARIANTS

# It imports TensorFlow, whatever the backend.
suites = pytest.importorskip(
    "keras_hub.src.tests.test_case",
    reason="needs keras-hub, grain and tensorflow",
    exc_type=ImportError,
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
OUTPUT_SHAPES = {
    "spatio_temporal": (3, 2, 2, 2, 32),
    "factorized_encoder": (3, 2, 32),
    "factorized_self_attention": (3, 2, 2, 2, 32),
    "factorized_dot_product": (3, 2, 2, 2, 32),
}


@pytest.fixture
def suite(monkeypatch):
    # Of KerasHub's base class: text models have one.
    monkeypatch.setattr(kv.ViViTBackbone, "token_embedding", None, raising=False)
    test_case = suites.TestCase()
    test_case.setUp()
    yield test_case
    test_case.doCleanups()


@pytest.mark.parametrize("variant", VARIANTS)
def test_backbone_passes(variant, suite):
    suite.run_backbone_test(
        kv.ViViTBackbone,
        {"video_shape": SMALL_VIDEO, "variant": variant, **SMALL},
        keras.ops.convert_to_tensor(normal(3, *SMALL_VIDEO)),
        OUTPUT_SHAPES[variant],
    )


@pytest.mark.parametrize(
    ("model", "shape"),
    [(kv.ViViTClassifier, (2, 11)), (kv.ViViTBackbone, (2, 6, 6, 6, 96))],
)
def test_preset_passes(model, shape, suite):
    volumes = keras.ops.convert_to_tensor(normal(2, 28, 28, 28, 1))
    preset = "vivit_organmnist3d"
    suite.run_preset_test(model, preset, volumes, expected_output_shape=shape)
