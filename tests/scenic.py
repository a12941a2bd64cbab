"""Scenic's ViViT parameters for the tests: read, make up, put into a Keras model.

Only `msgpack` is needed, because the TensorFlow and PyTorch test environments have
neither jax nor flax.
"""

import contextlib
import math
import pathlib
import re
import types

import keras
import msgpack
import numpy as np
import pytest

CASES = pathlib.Path(__file__).parent / "parity" / "scenic"

VARIANTS = {
    "spacetime": "spatio_temporal",
    "factorized_encoder": "factorized_encoder",
    "factorized_self_attention_block": "factorized_self_attention",
    "factorized_dot_product_attention": "factorized_dot_product",
}

# === Reading ===


def _array(code, data):
    # flax: 1 is an array, 3 a NumPy scalar (the optimizer's counters), 2 complex.
    if code not in (1, 3):
        raise ValueError(f"Only arrays and scalars are read. Received: type {code}")
    shape, dtype, raw = msgpack.unpackb(data)
    return np.frombuffer(raw, dtype).reshape(shape)


def _flatten(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def read_checkpoint(path):
    """A checkpoint's parameters as a flat dict, `"a/b/c"` -> array."""
    tree = msgpack.unpackb(pathlib.Path(path).read_bytes(), ext_hook=_array)
    # Files written before Scenic left `flax.optim` keep the model in the optimizer.
    tree = tree["optimizer"]["target"] if "optimizer" in tree else tree["params"]
    return dict(_flatten(tree.get("params", tree)))


def case_names():
    return sorted(path.stem for path in CASES.glob("*.npz"))


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
            params=read_checkpoint(CASES / f"{name}.msgpack"),
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


# === Putting into Keras ===

ENCODERS = {
    "encoder": ("Transformer", "cls"),
    "spatial": ("SpatialTransformer", "cls_SpatialTransformer"),
    "temporal": ("TemporalTransformer", "cls_TemporalTransformer"),
}

# Without `_space`, `_time` and `_mlp` Scenic's layers are numbered in order of use.
BLOCK = {
    "attention_norm": "LayerNorm_0",
    "attention": "MultiHeadDotProductAttention_0",
    "mlp_norm": "LayerNorm_1",
    "mlp": "MlpBlock_0",
}
FACTORIZED_BLOCK = {
    "space_norm": "LayerNorm_space",
    "space_attention": "MultiHeadDotProductAttention_space",
    "time_norm": "LayerNorm_time",
    "time_attention": "MultiHeadDotProductAttention_time",
    "mlp_norm": "LayerNorm_mlp",
    "mlp": "MlpBlock",
}

PATH = re.compile(
    r"(?:^|/)(?:(?P<ends>tubelet_embedding|head)"
    r"|(?P<encoder>encoder|spatial|temporal)_"
    r"(?P<part>position|class_token|norm|block_(?P<block>\d+)))/(?P<rest>.+)$"
)


def _block_weight(rest, factorized):
    """`"mlp/hidden/kernel"` -> `"MlpBlock_0/Dense_0/kernel"`."""
    layer, *inner, weight = rest.split("/")
    layer = (FACTORIZED_BLOCK if factorized else BLOCK).get(layer, layer)
    outputs = {"hidden": "Dense_0", "output": "Dense_1"}
    if layer.startswith("MultiHead"):
        outputs = {"output": "out"}
    weight = {"gamma": "scale", "beta": "bias"}.get(weight, weight)
    return "/".join([layer, *(outputs.get(name, name) for name in inner), weight])


def _scenic_name(path, factorized):
    """Where Scenic keeps a Keras variable; `[0]` and `[1:]` are rows of a table."""
    match = PATH.search(path)
    if match is None:
        raise ValueError(f"No Scenic name is known for the Keras weight {path}.")
    rest = match["rest"]
    if match["ends"]:
        layer = {"tubelet_embedding": "embedding", "head": "output_projection"}
        return f"{layer[match['ends']]}/{rest}"
    transformer, token = ENCODERS[match["encoder"]]
    table = f"{transformer}/posembed_input/pos_embedding"
    if match["part"] == "norm":
        weight = {"gamma": "scale", "beta": "bias"}.get(rest, rest)
        return f"{transformer}/encoder_norm/{weight}"
    if match["block"]:
        weight = _block_weight(rest, factorized)
        return f"{transformer}/encoderblock_{match['block']}/{weight}"
    names = {"table": f"{table}[1:]", "token": token, "position": f"{table}[0]"}
    return names.get(rest, rest)


def _split_tables(params):
    """Gives a class token's row of a position table a name of its own.

    Drops the leading axes of size 1, which Keras' tables and tokens do not have.
    """
    params = dict(params)
    for transformer, token in ENCODERS.values():
        name = f"{transformer}/posembed_input/pos_embedding"
        if name not in params:
            continue
        rows = params.pop(name).squeeze(0)
        if token in params:
            params[token] = params[token].squeeze((0, 1))
            params[f"{name}[0]"], rows = rows[0], rows[1:]
        params[f"{name}[1:]"] = rows
    return params


def load_scenic(model, params):
    """Puts a flat Scenic parameter dict into a Keras model, or raises ValueError.

    Strict: every tensor is used once, every Keras weight is set, no shape is adapted.
    """
    factorized = any("/space_attention/" in w.path for w in model.weights)
    unused, found, missing = _split_tables(params), [], []
    for weight in model.weights:
        name = _scenic_name(weight.path, factorized)
        if name not in unused:
            missing.append(f"{name} (for {weight.path})")
            continue
        value, shape = unused.pop(name), tuple(weight.shape)
        if name.endswith("[1:]") and len(value) == math.prod(shape[:-1]):
            value = value.reshape(*shape[:-1], -1)  # time-major rows -> the grid
        if value.shape != shape:
            raise ValueError(
                f"{name} must have the shape of {weight.path}, {shape}. "
                f"Received: {value.shape}"
            )
        found.append((weight, value))
    if missing or unused:
        raise ValueError(
            "Scenic's tree and the model must hold the same tensors. "
            f"Missing from the tree: {missing}. Unused: {sorted(unused)}"
        )
    for weight, value in found:
        weight.assign(value)


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


def load_scenic_block(block, params):
    """The same for a single built block and the parameters of `random_block`."""
    prefix = "Transformer/encoderblock_0/"
    params = {prefix + name: value for name, value in params.items()}
    load_scenic(block, params)


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
