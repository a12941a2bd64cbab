"""Files that a release has saved give the same outputs and go on training, for ever.

`tests/data/VERSION` holds, for each case, what that version wrote on one backend: a
`.keras`, a `.weights.h5`, a `.keras` with the state of its optimizer (`fitted`), the
inputs, and the outputs of all three; those of the last one after one more step, too.
`python tests/test_saved_files.py` writes the folder of the current version, on JAX:
models that were compiled on PyTorch name optimizers that only PyTorch has.
"""

import pathlib
import zipfile

import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize
from packaging.version import Version

import keras_vivit as kv

DATA = pathlib.Path(__file__).parent / "data"
VIDEO_SHAPE = (4, 6, 8, 1)
MODEL = {
    "video_shape": VIDEO_SHAPE,
    "num_classes": 3,
    "tubelet_size": (2, 3, 4),
    "embed_dim": 12,
    "num_layers": 1,
    "num_temporal_layers": 1,
    "num_heads": 2,
    "mlp_dim": 16,
}
MODELS = {
    "1-mean": {"num_layers": 2, "drop_path_rate": 0.1, "rescaling": (0.5, 0.1)},
    "1-token": {"pooling": "token", "activation": "gelu"},
    "2-mean": {"variant": "factorized_encoder", "position_kind": "sincos"},
    "2-token": {"variant": "factorized_encoder", "pooling": "token"},
    "3": {"variant": "factorized_self_attention", "position_kind": "factorized"},
    "4": {
        "variant": "factorized_dot_product",
        "num_classes": {"noun": 3, "verb": 2},
        "strides": (1, 3, 2),
    },
    "masked": {"masked": True},
    "half": {"dtype": "mixed_bfloat16"},
}
CASES = [*MODELS, "backbone", "composed"]


def make(name):
    """A model of every layer and variant, with weights that are nowhere zero."""
    if name == "backbone":
        arguments = {k: v for k, v in MODEL.items() if k != "num_classes"}
        model = kv.ViViTBackbone(**arguments)
    elif name == "composed":
        model = composed()
    else:
        model = kv.ViViTClassifier(**{**MODEL, **MODELS[name]})
    randomize(model)
    return model


def composed():
    """Layers of the package between those of Keras."""
    video = keras.Input(VIDEO_SHAPE)
    x = kv.TubeletEmbedding(12, (2, 3, 4))(video)
    x = kv.PositionalEncoder()(x)
    x = kv.FactorizedSelfAttentionBlock(2, 16, attention_order="time_space")(x)
    x = keras.layers.Add()([x, kv.DropPath(0.1)(keras.layers.Dense(12)(x))])
    x = kv.FactorizedDotProductBlock(2, 16)(x)
    x = kv.ClassToken()(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(kv.ViViTEncoderBlock(2, 16)(x))
    return keras.Model(video, keras.layers.Dense(3)(kv.TokenPooling("token")(x)))


def inputs_of(name):
    video = normal(2, *VIDEO_SHAPE)
    if name != "masked":
        return video
    mask = np.array([[True, True, True, False], [True, True, False, False]])
    return {"video": video, "frame_mask": mask}


def outputs_of(model, inputs):
    return flat(model.predict(inputs, verbose=0))


def train(model, inputs):
    """One step; no layer drops anything, so that it is the same on all backends."""
    for layer in model._flatten_layers():
        if getattr(layer, "drop_path_rate", 0):
            layer.drop_path_rate = 0.0
        if isinstance(layer, kv.DropPath):
            layer.rate = 0.0
    targets = keras.tree.map_structure(
        lambda x: np.ones((2, *x.shape[1:]), "float32"), model.output
    )
    model.train_on_batch(inputs, targets)


def write(folder):
    folder.mkdir(parents=True)
    for name in CASES:
        keras.utils.clear_session()
        model, inputs = make(name), inputs_of(name)
        results = {"outputs": outputs_of(model, inputs)}
        model.save(folder / f"{name}.keras")
        model.save_weights(folder / f"{name}.weights.h5")
        # A model compiled on JAX would ask for `torch.compile` on PyTorch.
        optimizer = keras.optimizers.AdamW(1e-2, epsilon=1e-2)
        model.compile(optimizer, "mse", jit_compile=False)
        train(model, inputs)
        model.save(folder / f"{name}.fitted.keras")
        results["fitted"] = outputs_of(model, inputs)
        train(model, inputs)
        results["continued"] = outputs_of(model, inputs)
        arrays = {f"{k}_{i}": x for k, v in results.items() for i, x in enumerate(v)}
        np.savez_compressed(folder / f"{name}.npz", **arrays)
    for path in folder.glob("*.keras"):
        compress(path)


def compress(path):
    """Packs an archive anew: HDF5 files of small arrays are mostly zeros."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


every_file = pytest.mark.parametrize(
    ("folder", "name"),
    [
        pytest.param(folder, name, id=f"{folder.name}-{name}")
        for folder in sorted(DATA.glob("[0-9]*"))
        for name in CASES
    ],
)


def load(folder, name):
    """Loads a model; Keras' own layers may have arguments that older Keras lacks."""
    if name.startswith("composed") and Version(keras.__version__) < Version("3.15"):
        pytest.skip("Keras 3.15 has written the configs of its initializers")
    return keras.saving.load_model(folder / f"{name}.keras")


def check(name, found, folder, kind):
    with np.load(folder / f"{name}.npz") as archive:
        expected = [archive[k] for k in archive if k.startswith(f"{kind}_")]
    tolerance = 0.02 if name == "half" else 1e-5
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@every_file
def test_model_loads(folder, name):
    model = load(folder, name)
    check(name, outputs_of(model, inputs_of(name)), folder, "outputs")


@every_file
def test_weights_load(folder, name):
    model = make(name)
    for weight in model.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    model.load_weights(folder / f"{name}.weights.h5")
    check(name, outputs_of(model, inputs_of(name)), folder, "outputs")


@every_file
def test_fitted_model_gives_its_outputs(folder, name):
    model = load(folder, f"{name}.fitted")
    check(name, outputs_of(model, inputs_of(name)), folder, "fitted")
    assert int(model.optimizer.iterations.value) == 1


@pytest.mark.slow
@every_file
def test_training_goes_on(folder, name):
    model = load(folder, f"{name}.fitted")
    inputs = inputs_of(name)
    train(model, inputs)
    check(name, outputs_of(model, inputs), folder, "continued")


if __name__ == "__main__":
    write(DATA / kv.__version__)
