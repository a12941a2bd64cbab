"""Every weight gets its tensor, whatever Keras does, and each tensor is read once."""

import collections
import pathlib

import keras
import numpy as np
import pytest
from helpers import flat
from scenic import CASES

import keras_vivit as kv
from keras_vivit import checkpoints
from keras_vivit.checkpoints import names, scenic
from keras_vivit.checkpoints.tensors import Checkpoint, Tensor

FOLDER = pathlib.Path(__file__).parent / "parity" / "transformers" / "vivit"
HEADS = {"noun": 3, "verb": 2}
SOURCES = {
    "transformers": (FOLDER, {}),
    "several heads": (FOLDER, {"num_classes": HEADS}),
    "one channel": (FOLDER, {"video_shape": (6, 16, 16, 1)}),
    "scenic": (CASES / "odd_m1_token.msgpack", {"video_shape": (6, 8, 40, 1)}),
    "preset": ("vivit_organmnist3d", {}),
}
all_sources = pytest.mark.parametrize("name", SOURCES)


def load(name, **changes):
    source, arguments = SOURCES[name]
    return kv.ViViTClassifier.from_preset(source, **arguments, **changes)


def assert_same_weights(model, other):
    for a, b in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(flat(a), flat(b))


@pytest.fixture
def reads(monkeypatch):
    """Counts how often each tensor is read."""
    counts = collections.Counter()
    read = checkpoints.read

    def counted(name, tensor):
        def reader():
            counts[name] += 1
            return tensor.read()

        return Tensor(tensor.shape, reader)

    def counting_read(*arguments):
        tensors, settings, new_head = read(*arguments)
        tensors = {name: counted(name, tensor) for name, tensor in tensors.items()}
        return Checkpoint(tensors, settings, new_head)

    monkeypatch.setattr(checkpoints, "read", counting_read)
    return counts


@all_sources
def test_each_tensor_is_read_once(name, reads):
    load(name)
    tensors = checkpoints.read(SOURCES[name][0]).tensors
    assert reads == dict.fromkeys(tensors, 1)


def test_tensors_that_the_model_does_not_need_are_not_read(reads):
    kv.ViViTBackbone.from_preset(FOLDER)
    assert reads
    assert not any(name.startswith(names.HEAD) for name in reads)


def test_no_tensor_is_read_for_a_model_that_does_not_fit(reads):
    with pytest.raises(ValueError, match="must hold the same tensors"):
        load("transformers", num_layers=1)
    with pytest.raises(ValueError, match="must have the shape of"):
        load("transformers", mlp_dim=41)
    assert not reads


@all_sources
def test_shapes_are_known_without_reading(name):
    for tensor in checkpoints.read(SOURCES[name][0]).tensors.values():
        assert tensor.shape == tensor.read().shape


@pytest.fixture
def renamed_initializer(monkeypatch):
    """As if Keras kept the initializer of a variable in another attribute."""

    def set_once(variable, initializer):
        if initializer is None or variable.__dict__.get("renamed") is None:
            variable.__dict__["renamed"] = initializer

    attribute = property(lambda variable: variable.__dict__["renamed"], set_once)
    monkeypatch.setattr(keras.Variable, "_initializer", attribute, raising=False)


@all_sources
def test_weights_are_the_tensors_even_if_keras_renames_its_attribute(name, request):
    expected = load(name)
    request.getfixturevalue("renamed_initializer")
    assert_same_weights(load(name), expected)


@pytest.mark.usefixtures("renamed_initializer")
def test_renaming_takes_the_attributes_effect_away():
    with keras.StatelessScope():
        variable = keras.Variable("ones", shape=(2,))
        variable._initializer = lambda shape, dtype: keras.ops.zeros(shape, dtype)
    np.testing.assert_array_equal(flat(variable)[0], [1, 1])


def test_error_while_reading_is_raised_and_leaves_nothing_behind(monkeypatch):
    def fail(path, offset, dtype, shape):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(scenic, "_read_array", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            load("scenic")
    assert kv.ViViTBackbone.from_preset(FOLDER).count_params() > 0


def test_layer_that_checkpoints_do_not_know_is_an_error():
    layer = keras.layers.Dense(2, name="adapter")
    layer.build((None, 2))
    with pytest.raises(ValueError, match="adapter/kernel must have a name"):
        names.match([layer], {})


# === Misspelled arguments ===


@pytest.mark.parametrize("source", ["vivit_ti16x2_factorized_encoder", "hf://no/where"])
@pytest.mark.parametrize("model", [kv.ViViTBackbone, kv.ViViTClassifier])
def test_misspelled_override_is_refused_at_once(model, source):
    with pytest.raises(TypeError, match=r"`num_layrs`\. Did you mean `num_layers`"):
        model.from_preset(source, num_layrs=2)


def test_misspelled_override_of_an_image_model_is_refused_at_once():
    with pytest.raises(TypeError, match=r"`poolin`\. Did you mean `pooling`"):
        kv.ViViTBackbone.from_image_preset("hf://no/where", (2, 8, 8, 3), poolin=1)


def test_name_that_resembles_none_is_refused():
    with pytest.raises(TypeError, match=r"unexpected argument `xyz`\.$"):
        kv.ViViTClassifier.from_preset("vivit_organmnist3d", xyz=1)


def test_arguments_of_a_subclass_are_known():
    class Mine(kv.ViViTClassifier):
        def __init__(self, *, extra=0, **kwargs):
            super().__init__(**kwargs)
            self.extra = extra

    assert Mine.from_preset("vivit_organmnist3d", extra=3).extra == 3
