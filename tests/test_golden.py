"""Outputs and gradients that every backend must reproduce to 1e-5.

`python tests/test_golden.py` writes `golden/outputs.npz` anew, with the backend of
`KERAS_BACKEND`; the stored ones are PyTorch's.
"""

import pathlib

import keras
import numpy as np
import pytest

import keras_vivit as kv

FILE = pathlib.Path(__file__).parent / "golden" / "outputs.npz"
VIDEO_SHAPE = (4, 6, 10, 2)
MODEL = {
    "video_shape": VIDEO_SHAPE,
    "num_classes": 5,
    "tubelet_size": (2, 3, 2),
    "embed_dim": 24,
    "num_layers": 2,
    "num_temporal_layers": 2,
    "num_heads": 4,
    "mlp_dim": 32,
}
CASES = {
    "1-token": {"pooling": "token", "rescaling": (1 / 127.5, -1)},
    "1-mean": {"activation": "gelu", "position_kind": "sincos"},
    "2-token": {"variant": "factorized_encoder", "pooling": "token"},
    "2-mean": {"variant": "factorized_encoder", "position_kind": "sincos"},
    "3": {"variant": "factorized_self_attention", "position_kind": "factorized"},
    "3-time-first": {
        "variant": "factorized_self_attention",
        "attention_order": "time_space",
    },
    "4": {"variant": "factorized_dot_product"},
    "4-overlapping": {
        "variant": "factorized_dot_product",
        "tubelet_size": (3, 3, 4),
        "strides": (2, 2, 3),
        "padding": "same",
    },
}
MASKED = ("1-token", "2-mean", "3", "4-overlapping")


def compute(name):
    """Probabilities before and after one step of gradient descent."""
    # The legacy generator: its numbers never change.
    rng = np.random.RandomState(0)
    masked = name in MASKED
    model = kv.ViViTClassifier(**{**MODEL, **CASES[name]}, masked=masked)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape, scale=0.2))
    inputs = rng.normal(size=(3, *VIDEO_SHAPE)).astype("float32")
    if masked:
        frame_mask = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]], bool)
        inputs = {"video": inputs, "frame_mask": frame_mask}
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = model.predict_on_batch(inputs)
    model.train_on_batch(inputs, np.array([0, 3, 4]))
    return np.stack([before, model.predict_on_batch(inputs)])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", CASES)
def test_backend_gives_the_golden_outputs(name):
    with np.load(FILE) as golden:
        expected = golden[name]
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    np.testing.assert_allclose(compute(name), expected, rtol=0, atol=1e-5)


if __name__ == "__main__":
    np.savez(FILE, **{name: compute(name) for name in CASES})
