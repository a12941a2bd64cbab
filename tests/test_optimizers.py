"""`keras_vivit.optimizers.Muon`: which kernels are matrices, and how they move."""

import keras
import numpy as np
import pytest
from helpers import flat

import keras_vivit
from keras_vivit.optimizers import INPUTS, OUTPUTS, Muon

DIM, HEADS = 12, 3
OPTIONS = {"learning_rate": 0.1, "weight_decay": 0.5}

as_keras_has_it = pytest.mark.skipif(
    not hasattr(keras.optimizers.Muon, "lr_adjust"),
    reason="this version's steps have another length",
)


def attention(kind):
    if kind == "ours":
        layer = keras_vivit.ViViTEncoderBlock(HEADS, 24)
        layer.build((None, 5, DIM))
    else:
        layer = keras.layers.MultiHeadAttention(HEADS, DIM // HEADS)
        layer.build((None, 5, DIM), (None, 5, DIM))
    return layer


def move(optimizer, variables, gradients):
    optimizer.build(variables)
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(x) for x in step], variables)


def two_gradients(variables):
    rng = np.random.default_rng(0)
    shapes = [variable.shape for variable in variables]
    return [[rng.standard_normal(s).astype("float32") for s in shapes] for _ in "ab"]


def as_matrix(kernel, array):
    outputs = "output" in kernel.path.split("/")[-2]
    return array.reshape((-1, DIM) if outputs else (DIM, -1))


@as_keras_has_it
@pytest.mark.parametrize("kind", ["ours", "keras"])
def test_kernels_of_attention_move_as_matrices(kind, way):
    kernels = [v for v in attention(kind).trainable_variables if len(v.shape) == 3]
    assert len(kernels) == 4
    matrices = [keras.Variable(as_matrix(k, flat(k)[0])) for k in kernels]
    gradients = two_gradients(kernels)
    move(Muon(**OPTIONS), kernels, gradients)
    move(
        keras.optimizers.Muon(**OPTIONS, adam_weight_decay=0.5),
        matrices,
        [
            [as_matrix(k, x) for k, x in zip(kernels, step, strict=True)]
            for step in gradients
        ],
    )
    for kernel, matrix in zip(kernels, matrices, strict=True):
        ours, expected = flat([kernel, matrix])
        np.testing.assert_allclose(as_matrix(kernel, ours), expected, atol=1e-5)


@as_keras_has_it
def test_everything_else_moves_as_in_keras(way):
    def layers():
        keras.utils.set_random_seed(0)
        convolution = keras.layers.Conv1D(4, 3, name="attention_output")
        convolution.build((None, 5, DIM))
        block = attention("ours")
        variables = convolution.trainable_variables + block.trainable_variables
        # Biases of heads have two axes, and are matrices to Keras.
        return [
            v
            for v in variables
            if v.path.endswith("mlp/hidden/kernel")
            or (len(v.shape) in (1, 3) and not v.path.endswith((*INPUTS, *OUTPUTS)))
        ]

    ours, theirs = layers(), layers()
    gradients = two_gradients(ours)
    move(Muon(**OPTIONS), ours, gradients)
    move(keras.optimizers.Muon(**OPTIONS, adam_weight_decay=0.5), theirs, gradients)
    for variable, expected in zip(ours, flat(theirs), strict=True):
        np.testing.assert_allclose(flat(variable)[0], expected, atol=1e-6)


def test_excluded_kernels_are_adamws():
    kernels = [v for v in attention("ours").trainable_variables if len(v.shape) == 3]
    gradients = two_gradients(kernels)
    optimizer = Muon(0.1, exclude_layers=["attention"])
    before = flat(kernels)
    move(optimizer, kernels, gradients[:1])
    for kernel, old in zip(kernels, before, strict=True):
        np.testing.assert_allclose(np.abs(flat(kernel)[0] - old), 0.1, rtol=1e-2)


def test_compiled_models_are_saved_with_it(tmp_path):
    model = keras_vivit.ViViTClassifier(
        (2, 8, 8, 1),
        3,
        tubelet_size=(2, 4, 4),
        embed_dim=DIM,
        num_layers=1,
        num_heads=HEADS,
        mlp_dim=24,
    )
    model.compile(optimizer=Muon(1e-2), loss="sparse_categorical_crossentropy")
    videos = np.random.default_rng(0).random((4, 2, 8, 8, 1), "float32")
    labels = np.array([0, 1, 2, 0])
    model.fit(videos, labels, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, Muon)
    for each in (model, loaded):
        keras.utils.set_random_seed(0)
        each.fit(videos, labels, verbose=0, shuffle=False)
    for ours, expected in zip(flat(loaded.weights), flat(model.weights), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
