"""Scenic's ViViT parameters for the tests: read, make up, put into a Keras model."""

import contextlib
import functools
import math
import pathlib
import types

import keras
import msgpack
import numpy as np
import pytest

from keras_vivit.checkpoints import names, scenic
from keras_vivit.checkpoints.tensors import Tensor

CASES = pathlib.Path(__file__).parent / "parity" / "scenic"

VARIANTS = {
    "spacetime": "spatio_temporal",
    "factorized_encoder": "factorized_encoder",
    "factorized_self_attention_block": "factorized_self_attention",
    "factorized_dot_product_attention": "factorized_dot_product",
}

# === Reading ===


def case_names():
    return sorted(path.stem for path in CASES.glob("*.npz"))


def read_params(name):
    """A case's parameters as a flat dict, `"a/b/c"` -> array."""
    checkpoint = scenic.read(CASES / f"{name}.msgpack")
    return {name: tensor.read() for name, tensor in checkpoint.tensors.items()}


def read_case(name):
    """One parity case: `inputs`, `logits`, `params`, and a model's `settings`."""
    with np.load(CASES / f"{name}.npz") as case:
        height, width, frames = case["patch_hwt"].tolist()
        settings = {
            "video_shape": case["inputs"].shape[1:],
            "num_classes": int(case["num_classes"]),
            "variant": VARIANTS[str(case["attention"])],
            "tubelet_size": (frames, height, width),
            "embed_dim": int(case["hidden_size"]),
            "num_layers": int(case["num_layers"]),
            "num_heads": int(case["num_heads"]),
            "mlp_dim": int(case["mlp_dim"]),
            "pooling": {"token": "token", "gap": "mean"}[str(case["classifier"])],
        }
        if settings["variant"] == "factorized_encoder":
            settings["num_temporal_layers"] = int(case["temporal_num_layers"])
        if settings["variant"] == "factorized_self_attention":
            settings["attention_order"] = str(case["attention_order"])
        return types.SimpleNamespace(
            inputs=case["inputs"],
            logits=case["logits"],
            params=read_params(name),
            settings=settings,
        )


# === Making up ===


def _block_shapes(variant, dim, heads, mlp_dim):
    factorized = variant == "factorized_self_attention"
    for name in ("space", "time", "mlp") if factorized else "01":
        yield f"LayerNorm_{name}/scale", (dim,)
        yield f"LayerNorm_{name}/bias", (dim,)
    for name in ("space", "time") if factorized else "0":
        attention = f"MultiHeadDotProductAttention_{name}"
        for projection in ("query", "key", "value"):
            yield f"{attention}/{projection}/kernel", (dim, heads, dim // heads)
            yield f"{attention}/{projection}/bias", (heads, dim // heads)
        yield f"{attention}/out/kernel", (heads, dim // heads, dim)
        yield f"{attention}/out/bias", (dim,)
    mlp = "MlpBlock" if factorized else "MlpBlock_0"
    yield f"{mlp}/Dense_0/kernel", (dim, mlp_dim)
    yield f"{mlp}/Dense_0/bias", (mlp_dim,)
    yield f"{mlp}/Dense_1/kernel", (mlp_dim, dim)
    yield f"{mlp}/Dense_1/bias", (dim,)


def _encoder_shapes(name, depth, tokens, variant, dim, heads, mlp_dim):
    yield f"{name}/posembed_input/pos_embedding", (1, tokens, dim)
    for i in range(depth):
        for weight, shape in _block_shapes(variant, dim, heads, mlp_dim):
            yield f"{name}/encoderblock_{i}/{weight}", shape
    yield f"{name}/encoder_norm/scale", (dim,)
    yield f"{name}/encoder_norm/bias", (dim,)


def _model_shapes(settings, grid):
    variant, dim = settings["variant"], settings["embed_dim"]
    t, h, w = grid
    sizes = (variant, dim, settings["num_heads"], settings["mlp_dim"])
    token = int(settings["pooling"] == "token")
    channels, depth = settings["video_shape"][-1], settings["num_layers"]
    yield "embedding/kernel", (*settings["tubelet_size"], channels, dim)
    yield "embedding/bias", (dim,)
    if variant == "factorized_encoder":
        temporal_depth = settings["num_temporal_layers"]
        encoders = {
            "SpatialTransformer": (depth, h * w + token),
            "TemporalTransformer": (temporal_depth, t + token),
        }
        tokens = [f"cls_{name}" for name in encoders]
    else:
        encoders, tokens = {"Transformer": (depth, t * h * w + token)}, ["cls"]
    for name in tokens if token else []:
        yield name, (1, 1, dim)
    for name, (layers, length) in encoders.items():
        yield from _encoder_shapes(name, layers, length, *sizes)
    yield "output_projection/kernel", (dim, settings["num_classes"])
    yield "output_projection/bias", (settings["num_classes"],)


def random_array(name, shape, rng):
    """Values that keep activations near 1 and leave no weight at a neutral value."""
    values = rng.normal(size=shape)
    if name.endswith("kernel"):
        # Query, key and value kernels keep their heads in the last two axes.
        heads = "MultiHead" in name and "/out/" not in name
        fan_in = shape[0] if heads else math.prod(shape[:-1])
        values = values / np.sqrt(fan_in)
    elif name.endswith("scale"):
        values = 1 + 0.3 * values
    elif name.endswith("bias"):
        values = 0.3 * values
    return values.astype("float32")


def random_params(settings, grid, seed=0):
    """A Scenic parameter dict for these model arguments and this token grid."""
    rng = np.random.default_rng(seed)
    shapes = _model_shapes(settings, grid)
    return {name: random_array(name, shape, rng) for name, shape in shapes}


def random_block(variant, embed_dim, num_heads, mlp_dim, seed=0):
    """One block's parameters, named from the block on."""
    rng = np.random.default_rng(seed)
    shapes = _block_shapes(variant, embed_dim, num_heads, mlp_dim)
    return {name: random_array(name, shape, rng) for name, shape in shapes}


# === Writing ===


def write_checkpoint(path, params):
    """Writes a flat parameter dict as Flax does."""
    tree = {}
    for name, value in params.items():
        *folders, leaf = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        content = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
        place[leaf] = msgpack.ExtType(1, content)
    path.write_bytes(msgpack.packb({"params": tree}))
    return path


# === Putting into Keras ===


@contextlib.contextmanager
def unset_weights():
    """Random initializers give NaN, so that no weight left unset can go unseen.

    It is also much faster on JAX, which compiles random numbers for each shape.
    """

    def nan(self, shape, dtype=None):
        return np.full(shape, np.nan, dtype)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("RandomNormal", "VarianceScaling"):
            patch.setattr(getattr(keras.initializers, name), "__call__", nan)
        yield


def as_tensors(params):
    return {
        name: Tensor(value.shape, functools.partial(np.asarray, value))
        for name, value in params.items()
    }


def load_scenic(model, params):
    """Puts a flat Scenic parameter dict into a model."""
    for weight, read in names.match(names.layers_of(model), as_tensors(params)):
        weight.assign(read())


def load_scenic_block(block, params):
    """The same for a single built block and the parameters of `random_block`."""
    prefix = "Transformer/encoderblock_0/"
    tensors = as_tensors({prefix + name: value for name, value in params.items()})
    for weight, read in names.match([block], tensors):
        weight.assign(read())


def assert_close(actual, expected, kept=None):
    """Equal to 1e-5, the agreement this library promises on a CPU.

    `kept` is a boolean mask: what it drops may hold anything finite.
    """
    actual = keras.ops.convert_to_numpy(actual)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    if kept is not None:
        actual, expected = actual[kept], expected[kept]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
