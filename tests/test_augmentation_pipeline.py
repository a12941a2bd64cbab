"""Augmentation in `tf.data`, which is TensorFlow's, on every backend."""

import keras
import numpy as np
import pytest
from helpers import augmentation_of, flat, normal, only

from keras_vivit import augmentation

tf = pytest.importorskip("tensorflow", reason="tf.data needs TensorFlow")
# Beside other backends, TensorFlow is installed for slow tests alone.
pytestmark = [pytest.mark.slow] * (keras.config.backend() != "tensorflow")
SHAPE = (20, 4, 5, 6, 1)


def data():
    return {
        "videos": normal(*SHAPE),
        "labels": np.eye(2, dtype="float32")[np.arange(20) % 2],
        "frame_mask": np.arange(4) < 1 + np.arange(20)[:, None] % 4,
        "segmentation_masks": normal(*SHAPE[:4], 3),
    }


def dataset(entries, batch_size):
    return tf.data.Dataset.from_tensor_slices(entries).batch(batch_size)


@pytest.mark.parametrize("name", augmentation.__all__)
def test_map_gives_what_a_bare_call_gives(name):
    # To the end first: Keras draws from Beta with PyTorch's one global generator.
    mapped = list(dataset(data(), 10).map(augmentation_of(name)))
    layer, changed = augmentation_of(name), False
    for batch, outputs in zip(dataset(data(), 10), mapped, strict=True):
        arrays = {key: x.numpy() for key, x in batch.items()}
        expected, resting = layer(arrays), layer(arrays, training=False)
        assert set(outputs) == set(expected)
        for key, x in outputs.items():
            assert x.dtype.name == keras.backend.standardize_dtype(expected[key].dtype)
            np.testing.assert_allclose(
                flat(x.numpy())[0], flat(expected[key])[0], atol=1e-5
            )
        videos = flat(resting["videos"])[0]
        changed = changed or np.any(outputs["videos"].numpy() != videos)
    assert changed


def test_map_of_videos_alone_and_its_shape():
    videos = np.random.default_rng(0).integers(0, 256, SHAPE, "uint8")
    mapped = dataset(videos, 8).map(augmentation_of("RandomIntensity"))
    assert mapped.element_spec.shape == (None, *SHAPE[1:])
    assert mapped.element_spec.dtype == "float32"
    assert [tuple(x.shape) for x in mapped] == [(n, *SHAPE[1:]) for n in (8, 8, 4)]


# TensorFlow's threads share random numbers at times, as in Keras' layers.
@only("jax", "torch")
def test_map_in_several_threads_gives_each_batch_its_own_change():
    videos = np.tile(normal(1, *SHAPE[1:]), (40, 1, 1, 1, 1))
    layer = augmentation.RandomAffine(shift=0.3)
    mapped = dataset(videos, 1).map(layer, num_parallel_calls=4)
    outputs = np.concatenate([x.numpy() for x in mapped])
    assert len(np.unique(outputs.reshape(40, -1).round(4), axis=0)) == 40
    assert flat(layer.seed_generator.state)[0][1] == 3 * 40


def test_map_leaves_64_bit_labels_and_inference():
    entries = {"videos": normal(*SHAPE), "labels": np.arange(20)}
    layer = augmentation.RandomErasing((4, 5, 6), 0.999)
    for training, mean in ((True, 0.0), (False, 1.0)):
        ones = {**entries, "videos": np.ones(SHAPE, "float32")}
        mapped = dataset(ones, 20).map(lambda x, t=training: layer(x, training=t))
        (outputs,) = mapped
        assert outputs["labels"].dtype == "int64"
        np.testing.assert_array_equal(outputs["labels"], np.arange(20))
        assert outputs["videos"].numpy().mean() == pytest.approx(mean, abs=0.3)


def test_wrong_elements_are_refused_when_they_are_mapped():
    layer, entries = augmentation_of("RandomFlip"), data()
    with pytest.raises(ValueError, match=r"no other keys.*'boxes'"):
        dataset({**entries, "boxes": np.ones((20, 4))}, 10).map(layer)
    with pytest.raises(ValueError, match=r"must have the shape \(batch, frames"):
        tf.data.Dataset.from_tensor_slices(entries["videos"]).map(
            augmentation_of("RandomAffine")
        )
    with pytest.raises(ValueError, match="`inputs` must be the only positional"):
        dataset((entries["videos"], entries["labels"]), 10).map(
            augmentation_of("RandomAffine")
        )


@pytest.mark.filterwarnings("ignore:The model does not have any trainable")
def test_model_fits_on_augmented_data():
    video = keras.Input(SHAPE[1:])
    model = keras.Model(video, keras.layers.Flatten()(video))
    model.compile(loss="mse")
    layer = augmentation.RandomErasing((4, 5, 6), 0.999)
    entries = (np.ones(SHAPE, "float32"), np.zeros((20, 120), "float32"))
    augmented = dataset(entries, 10).map(lambda x, y: (layer(x), y))
    assert model.fit(augmented, shuffle=False, verbose=0).history["loss"][0] < 0.5
