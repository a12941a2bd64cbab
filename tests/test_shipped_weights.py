"""The preset whose weights come with the package.

`python tests/test_shipped_weights.py` writes `golden/vivit_organmnist3d.npz` anew, with
the backend of `KERAS_BACKEND`; the stored logits are PyTorch's.
"""

import os
import pathlib

import keras
import numpy as np
import pytest
from helpers import flat

import keras_vivit as kv
from keras_vivit.presets import PRESETS

NAME = "vivit_organmnist3d"
FILE = pathlib.Path(__file__).parent / "golden" / f"{NAME}.npz"
DATA = pathlib.Path(os.environ.get("KERAS_VIVIT_DATA", "")) / "organmnist3d.npz"
# What docs/organmnist3d.md says, for the file of 304 test volumes.
CORRECT, TEST_VOLUMES = 282, 304


def volumes():
    """Blurred noise, raw pixels, uint8."""
    rng = np.random.RandomState(0)  # the legacy generator: its numbers never change
    coarse = rng.randint(0, 256, (4, 7, 7, 7, 1))
    return np.kron(coarse, np.ones((1, 4, 4, 4, 1))).astype("uint8")


def logits():
    model = kv.ViViTClassifier.from_preset(NAME, classifier_activation=None)
    return model.predict(volumes(), verbose=0)


def test_logits_are_those_stored():
    with np.load(FILE) as stored:
        np.testing.assert_allclose(logits(), stored["logits"], atol=1e-5, rtol=1e-5)


def test_file_stays_small():
    path = PRESETS[NAME]["weights"]
    assert 1e5 < path.stat().st_size < 4e6


@pytest.mark.skipif(
    not DATA.is_file(), reason="KERAS_VIVIT_DATA names no folder with organmnist3d.npz"
)
def test_accuracy_is_that_of_the_model_card():
    with np.load(DATA) as file:
        images, labels = file["test_images"], file["test_labels"][:, 0]
    if len(labels) != TEST_VOLUMES:
        pytest.skip(f"the card's accuracy is that of other {TEST_VOLUMES} volumes")
    predicted = kv.ViViTClassifier.from_preset(NAME).predict(images[..., None])
    # Another backend may decide a close case otherwise.
    assert abs(int((predicted.argmax(axis=1) == labels).sum()) - CORRECT) <= 1


def test_architecture_alone_is_random():
    model = kv.ViViTClassifier.from_preset(NAME, load_weights=False)
    assert not np.any(flat(model.get_layer("head").kernel))


def test_backbone_has_the_same_weights_without_the_head():
    model = kv.ViViTClassifier.from_preset(NAME)
    backbone = kv.ViViTBackbone.from_preset(NAME)
    np.testing.assert_allclose(
        flat(backbone(volumes()))[0], flat(model.backbone(volumes()))[0], atol=1e-6
    )


def test_other_classes_and_sizes_keep_what_they_can():
    with pytest.warns(UserWarning, match="new one, not yet trained"):
        model = kv.ViViTClassifier.from_preset(
            NAME, num_classes=2, video_shape=(32, 28, 24, 1)
        )
    table = model.backbone.get_layer("encoder_position").table
    original = kv.ViViTBackbone.from_preset(NAME).get_layer("encoder_position").table
    expected = kv.resize_position_table(flat(original)[0], tuple(table.shape[:3]))
    np.testing.assert_allclose(flat(table)[0], expected, atol=1e-6)
    assert tuple(model(np.zeros((1, 32, 28, 24, 1))).shape) == (1, 2)


def test_variants_other_than_its_own_are_refused():
    with pytest.raises(ValueError, match="must hold the same tensors"):
        kv.ViViTClassifier.from_preset(NAME, variant="factorized_encoder")


if __name__ == "__main__":
    np.savez(FILE, logits=logits())
    print(f"Written with {keras.config.backend()}.")
