"""What augmentation layers take, in which dtype, and what they refuse."""

import inspect

import keras
import numpy as np
import pytest
from helpers import augmentation_of, augmented, normal

from keras_vivit import augmentation

SHAPE = (40, 4, 5, 6, 1)
each_layer = pytest.mark.parametrize("name", augmentation.__all__)


def numbers(shape=SHAPE, dtype="uint8"):
    """Another label in each voxel."""
    return np.random.default_rng(1).integers(0, 200, shape).astype(dtype)


def soft(n, classes=3):
    return np.eye(classes, dtype="float32")[np.arange(n) % classes]


# === Signatures ===


@each_layer
def test_arguments_are_written_out(name):
    layer = getattr(augmentation, name)
    parameters = inspect.signature(layer).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert all(p.annotation is not p.empty for p in parameters.values())
    keras_arguments = set(inspect.signature(keras.layers.Layer.__init__).parameters)
    assert keras_arguments - {"self", "kwargs"} <= set(parameters)
    with pytest.raises(TypeError, match="sead"):
        augmentation_of(name, sead=1)


@each_layer
def test_arguments_of_keras_are_passed_on(name):
    options = {"name": "mine", "trainable": False, "activity_regularizer": "l2"}
    layer = augmentation_of(name, dtype="mixed_float16", **options)
    assert (layer.name, layer.trainable) == ("mine", False)
    assert layer.dtype_policy.name == "mixed_float16"
    assert isinstance(layer.activity_regularizer, keras.regularizers.L2)
    assert layer.get_config()["activity_regularizer"]


# === Keys, shapes ===


@each_layer
def test_unknown_keys_are_refused_and_named(name):
    layer = augmentation_of(name)
    data = {"videos": normal(*SHAPE), "labels": soft(40)}
    layer(data, training=True)
    for training in (True, False):
        with pytest.raises(ValueError, match=r"no other keys.*'boxes', 'weight'"):
            layer({**data, "boxes": soft(40), "weight": soft(40)}, training=training)
    symbolic = {n: keras.Input(x.shape[1:]) for n, x in data.items()}
    with pytest.raises(ValueError, match=r"no other keys.*'boxes'"):
        layer({**symbolic, "boxes": keras.Input((3,))})


@each_layer
def test_videos_must_be_there(name):
    with pytest.raises(ValueError, match="must be a dictionary with 'videos'"):
        augmentation_of(name)({"labels": soft(40)}, training=True)


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("frame_mask", (40, 5), r"`frame_mask` must have.*\(40, 5\).*\(40, 4, 5, 6, 1"),
        ("frame_mask", (40, 4, 5, 6), "`frame_mask` must have the shape"),
        ("frame_mask", (1, 4), r"`frame_mask` must have as many samples.*\(1, 4\)"),
        ("segmentation_masks", (40, 4, 5, 7), "`segmentation_masks` must have the"),
        ("segmentation_masks", (40, 4, 5), "`segmentation_masks` must have the"),
        ("labels", (1, 3), r"`labels` must have as many samples.*\(1, 3\)"),
    ],
)
@each_layer
def test_what_does_not_fit_the_videos_is_refused(name, key, shape, words):
    data = {"videos": normal(*SHAPE), "labels": soft(40), key: np.ones(shape, "int32")}
    with pytest.raises(ValueError, match=words):
        augmentation_of(name)(data, training=True)


@each_layer
def test_empty_batch(name):
    given = {"videos": (0, *SHAPE[1:]), "labels": (0, 3), "frame_mask": (0, 4)}
    given["segmentation_masks"] = (0, *SHAPE[1:4], 2)
    layer = augmentation_of(name)
    for training in (True, False):
        data = {n: np.ones(s) for n, s in given.items()}
        outputs = augmented(layer, training, **data)
        declared = layer.compute_output_shape(given)
        assert {n: x.shape for n, x in outputs.items()} == declared


@pytest.mark.parametrize("training", [True, False])
@each_layer
def test_dtypes_and_declared_ones(name, training):
    """Pixels and soft labels are float32; nothing else changes its dtype."""
    data = {"videos": numbers(), "labels": soft(40).astype("uint8")}
    data["frame_mask"] = np.ones((40, 4), bool)
    data["segmentation_masks"] = soft(40 * 120).reshape(*SHAPE[:4], 3).astype("uint8")
    expected = {n: x.dtype for n, x in data.items()} | {"videos": "float32"}
    if name in ("MixUp", "CutMix"):
        expected["labels"] = "float32"
    if name == "MixUp":
        expected["segmentation_masks"] = "float32"
    layer = augmentation_of(name, dtype="mixed_bfloat16")
    outputs = augmented(layer, training=training, **data)
    assert {n: x.dtype for n, x in outputs.items()} == expected
    symbolic = {n: keras.Input(x.shape[1:], dtype=x.dtype) for n, x in data.items()}
    declared = layer(symbolic)
    assert {n: x.dtype for n, x in declared.items()} == expected
    shapes = {n: x.shape[1:] for n, x in outputs.items()}
    assert {n: x.shape[1:] for n, x in declared.items()} == shapes


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "float64"])
def test_untouched_labels_are_as_they_were(dtype, shape):
    labels = np.arange(40).reshape(shape).astype(dtype)
    for name in set(augmentation.__all__) - {"MixUp", "CutMix"}:
        for policy in ("float32", "mixed_float16"):
            layer = augmentation_of(name, dtype=policy)
            outputs = augmented(layer, videos=normal(*SHAPE), labels=labels)
            tensor = keras.ops.convert_to_tensor(labels)  # JAX knows no 64 bits.
            assert outputs["labels"].dtype == keras.backend.standardize_dtype(
                tensor.dtype
            )
            np.testing.assert_array_equal(outputs["labels"], labels)


# === Precision ===


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16", "bfloat16"])
@each_layer
def test_half_policies_compute_in_full(name, policy):
    """An axis of 300 voxels has places that bfloat16 does not hold."""
    rng = np.random.default_rng(0)
    data = {
        "videos": rng.uniform(0, 255, (2, 2, 3, 300, 1)).astype("float32"),
        "labels": np.array([[0.123456, 0.876544], [1, 0]], "float32"),
        "segmentation_masks": rng.random((2, 2, 3, 300, 2)).astype("float32"),
    }
    full, half = augmentation_of(name), augmentation_of(name, dtype=policy)
    expected, outputs = augmented(full, **data), augmented(half, **data)
    for key, x in expected.items():
        np.testing.assert_array_equal(outputs[key], x)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_flip_keeps_numbers_that_half_precision_rounds(policy):
    videos = np.resize(np.array([1001, 70000, 0.1], "float32"), SHAPE)
    layer = augmentation.RandomFlip(rate=0, dtype=policy)
    np.testing.assert_array_equal(augmented(layer, videos=videos)["videos"], videos)


def test_shifts_are_exact_in_half_precision():
    """A ramp shows where each voxel came from."""
    videos = np.broadcast_to(np.arange(224.0)[:, None], (20, 1, 1, 224, 1))
    layer = augmentation.RandomAffine(shift=0.2, seed=0, dtype="mixed_bfloat16")
    outputs = augmented(layer, videos=videos)["videos"][:, 0, 0, :, 0]
    steps = np.diff(outputs[:, 60:160], axis=1)
    np.testing.assert_allclose(steps, 1, atol=1e-3)
    assert np.abs(outputs[:, 100] - 100).max() > 20
