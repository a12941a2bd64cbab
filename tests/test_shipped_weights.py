"""The presets whose weights come with the package.

`python tests/test_shipped_weights.py PRESET` writes `golden/PRESET.npz` anew, with the
backend of `KERAS_BACKEND`; the stored logits are PyTorch's.
"""

import os
import pathlib
import sys

import keras
import numpy as np
import pytest
from helpers import flat

import keras_vivit as kv
from keras_vivit.presets import PRESETS

GOLDEN = pathlib.Path(__file__).parent / "golden"
DATA = pathlib.Path(os.environ.get("KERAS_VIVIT_DATA", "")) / "organmnist3d.npz"
# What docs/organmnist3d.md says, for the file of 304 test volumes.
CORRECT = {"vivit_organmnist3d": 282, "vivit_organmnist3d_v2": 289}
TEST_VOLUMES = 304

each_preset = pytest.mark.parametrize("name", CORRECT)


def volumes():
    """Blurred noise, raw pixels, uint8."""
    rng = np.random.RandomState(0)  # the legacy generator: its numbers never change
    coarse = rng.randint(0, 256, (4, 7, 7, 7, 1))
    return np.kron(coarse, np.ones((1, 4, 4, 4, 1))).astype("uint8")


def logits(name):
    model = kv.ViViTClassifier.from_preset(name, classifier_activation=None)
    return model.predict(volumes(), verbose=0)


def test_all_are_tested():
    assert {name for name in PRESETS if "weights" in PRESETS[name]} == {*CORRECT}


@each_preset
def test_logits_are_those_stored(name):
    with np.load(GOLDEN / f"{name}.npz") as stored:
        expected = stored["logits"]
    np.testing.assert_allclose(logits(name), expected, atol=1e-5, rtol=1e-5)


@each_preset
def test_file_stays_small(name):
    path = PRESETS[name]["weights"]
    assert 1e5 < path.stat().st_size < 4e6


@pytest.mark.skipif(
    not DATA.is_file(), reason="KERAS_VIVIT_DATA names no folder with organmnist3d.npz"
)
@each_preset
def test_accuracy_is_that_of_the_model_card(name):
    with np.load(DATA) as file:
        images, labels = file["test_images"], file["test_labels"][:, 0]
    if len(labels) != TEST_VOLUMES:
        pytest.skip(f"the card's accuracy is that of other {TEST_VOLUMES} volumes")
    predicted = kv.ViViTClassifier.from_preset(name).predict(images[..., None])
    # Another backend may decide a close case otherwise.
    assert abs(int((predicted.argmax(axis=1) == labels).sum()) - CORRECT[name]) <= 1


@each_preset
def test_architecture_alone_is_random(name):
    model = kv.ViViTClassifier.from_preset(name, load_weights=False)
    assert not np.any(flat(model.get_layer("head").kernel))


@each_preset
def test_backbone_has_the_same_weights_without_the_head(name):
    model = kv.ViViTClassifier.from_preset(name)
    backbone = kv.ViViTBackbone.from_preset(name)
    np.testing.assert_allclose(
        flat(backbone(volumes()))[0], flat(model.backbone(volumes()))[0], atol=1e-6
    )


@each_preset
def test_other_classes_and_sizes_keep_what_they_can(name):
    stride = PRESETS[name]["config"]["strides"][0]
    shape = 28 + stride, 28, 28 - stride, 1
    with pytest.warns(UserWarning, match="new one, not yet trained"):
        model = kv.ViViTClassifier.from_preset(name, num_classes=2, video_shape=shape)
    table = model.backbone.get_layer("encoder_position").table
    original = kv.ViViTBackbone.from_preset(name).get_layer("encoder_position").table
    expected = kv.resize_position_table(flat(original)[0], tuple(table.shape[:3]))
    np.testing.assert_allclose(flat(table)[0], expected, atol=1e-6)
    assert tuple(model(np.zeros((1, *shape))).shape) == (1, 2)


@each_preset
def test_variants_other_than_its_own_are_refused(name):
    with pytest.raises(ValueError, match="must hold the same tensors"):
        kv.ViViTClassifier.from_preset(name, variant="factorized_encoder")


if __name__ == "__main__":
    (preset,) = sys.argv[1:]
    np.savez(GOLDEN / f"{preset}.npz", logits=logits(preset))
    print(f"Written with {keras.config.backend()}.")
