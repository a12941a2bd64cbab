"""Names and layouts of tensors in PyTorch, as `transformers` has them."""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_vivit.checkpoints.names import (
    BIAS,
    BLOCK,
    FACTORIZED_BLOCK,
    HEAD,
    HEAD_NORM,
    KERNEL,
    TABLE,
    TIME_TABLE,
)
from keras_vivit.checkpoints.tensors import Tensor, Tensors

ATTENTION, MLP = BLOCK["attention"], BLOCK["mlp"]
TIME_ATTENTION = FACTORIZED_BLOCK["time_attention"]
PROJECTIONS = ("query", "key", "value")
PREFIXES = ("vivit", "vit", "videomae", "timesformer", "dinov2")
# The names in files, then those that transformers 5 has in memory.
_LAYERS = {
    "layernorm_before": BLOCK["attention_norm"],
    "layernorm_after": BLOCK["mlp_norm"],
    "attention.attention.query": f"{ATTENTION}/query",
    "attention.attention.key": f"{ATTENTION}/key",
    "attention.attention.value": f"{ATTENTION}/value",
    "attention.output.dense": f"{ATTENTION}/out",
    "intermediate.dense": f"{MLP}/Dense_0",
    "output.dense": f"{MLP}/Dense_1",
    "attention.q_proj": f"{ATTENTION}/query",
    "attention.k_proj": f"{ATTENTION}/key",
    "attention.v_proj": f"{ATTENTION}/value",
    "attention.o_proj": f"{ATTENTION}/out",
    "mlp.fc1": f"{MLP}/Dense_0",
    "mlp.fc2": f"{MLP}/Dense_1",
    # DINOv2's.
    "norm1": BLOCK["attention_norm"],
    "norm2": BLOCK["mlp_norm"],
    # TimeSformer's.
    "temporal_layernorm": FACTORIZED_BLOCK["time_norm"],
    "temporal_attention.attention.query": f"{TIME_ATTENTION}/query",
    "temporal_attention.attention.key": f"{TIME_ATTENTION}/key",
    "temporal_attention.attention.value": f"{TIME_ATTENTION}/value",
    "temporal_attention.output.dense": f"{TIME_ATTENTION}/out",
}
_OTHERS = {
    "embeddings.cls_token": "cls",
    "embeddings.position_embeddings": TABLE,
    "embeddings.time_embeddings": TIME_TABLE,
    "embeddings.patch_embeddings.projection.weight": KERNEL,
    "embeddings.patch_embeddings.projection.bias": BIAS,
    "layernorm.weight": "Transformer/encoder_norm/scale",
    "layernorm.bias": "Transformer/encoder_norm/bias",
    "fc_norm.weight": f"{HEAD_NORM}/scale",
    "fc_norm.bias": f"{HEAD_NORM}/bias",
    "classifier.weight": f"{HEAD}/kernel",
    "classifier.bias": f"{HEAD}/bias",
}
_LAYER = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)")


def to_scenic(stored: Tensors, heads: int, source: Path) -> Tensors:
    """Gives the tensors of a file Scenic's names and layouts.

    Raises:
        ValueError: If a tensor is there twice, or cannot be divided among the heads.
    """
    tensors: Tensors = {}
    for name, tensor in stored.items():
        short = re.sub(rf"^({'|'.join(PREFIXES)})\.", "", name)
        if short.startswith("pooler."):  # The classifiers do not use it.
            continue
        scenic = _scenic_name(short)
        if scenic in tensors:
            raise ValueError(f"{source} must hold {scenic} once, not as {name} too.")
        try:
            tensors[scenic] = tensor.map(_to_scenic_layout(scenic, heads))
        except ValueError as error:
            raise ValueError(
                f"{name} must be divisible among the heads. Received: "
                f"num_heads={heads}, shape={tensor.shape} in {source}"
            ) from error
    return tensors


def to_transformers(
    tensors: dict[str, np.ndarray], model: str
) -> dict[str, np.ndarray]:
    """Undoes `to_scenic` for arrays; names get the prefix `model`."""
    others = {scenic: name for name, scenic in _OTHERS.items()}
    layers = {scenic: name for name, scenic in reversed(_LAYERS.items())}
    state = {}
    for scenic, array in tensors.items():
        match = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.+)/(\w+)", scenic)
        if match is None:
            name = others[scenic]
        else:
            kind = {"kernel": "weight", "scale": "weight"}.get(match[3], match[3])
            name = f"encoder.layer.{match[1]}.{layers[match[2]]}.{kind}"
        if not name.startswith(("classifier", "fc_norm")):
            name = f"{model}.{name}"
        state[name] = np.ascontiguousarray(_from_scenic_layout(scenic, array))
    return state


def split_projections(stored: Tensors) -> Tensors:
    """Splits the tensors `qkv`, which hold query, key and value in this order."""
    tensors: Tensors = {}
    for name, tensor in stored.items():
        stacked = name.endswith((".qkv.weight", ".qkv.bias"))
        if not stacked or tensor.shape[0] % 3:
            tensors[name] = tensor
            continue
        for i, projection in enumerate(PROJECTIONS):
            part = tensor.map(functools.partial(_third, index=i))
            tensors[name.replace(".qkv.", f".{projection}.")] = part
    return tensors


def _third(stacked: np.ndarray, index: int) -> np.ndarray:
    return np.split(stacked, 3)[index]


def add_zero_biases(tensors: Tensors, projections: Sequence[str] = PROJECTIONS) -> None:
    """Adds biases of zeros to projections that have none."""
    kernel = re.compile(f"({'|'.join(projections)})/kernel$")
    for name in [name for name in tensors if kernel.search(name)]:
        zeros = np.zeros(tensors[name].shape[1:], "float32")
        bias = name.replace("/kernel", "/bias")
        tensors.setdefault(bias, Tensor(zeros.shape, zeros.copy))


def _scenic_name(name: str) -> str:
    # VideoMAE's biases, which are parameters of the attention itself.
    name = re.sub(r"\.q_bias$", ".query.bias", name)
    name = re.sub(r"\.v_bias$", ".value.bias", name)
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _LAYERS:
        return _OTHERS.get(name, name)
    index, layer, kind = match.groups()
    if kind == "weight":
        kind = "scale" if "norm" in layer else "kernel"
    return f"Transformer/encoderblock_{index}/{_LAYERS[layer]}/{kind}"


def _to_scenic_layout(name: str, heads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function that gives a tensor of PyTorch's layout Scenic's."""
    if name == TIME_TABLE:
        return lambda table: table[0]
    if name == KERNEL:  # (d, c, [t,] h, w) to ([t,] h, w, c, d)
        return lambda w: np.moveaxis(w, (0, 1), (-1, -2))
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return lambda w: w.T.reshape(w.shape[1], heads, -1)
    if name.endswith("out/kernel"):
        return lambda w: w.T.reshape(heads, -1, w.shape[0])
    if name.endswith(("query/bias", "key/bias", "value/bias")):
        return lambda b: b.reshape(heads, -1)
    return np.transpose if name.endswith("/kernel") else np.asarray


def _from_scenic_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Undoes `_to_scenic_layout`."""
    if name == KERNEL:
        return np.moveaxis(array, (-1, -2), (0, 1))
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return array.reshape(len(array), -1).T
    if name.endswith("out/kernel"):
        return array.reshape(-1, array.shape[-1]).T
    if name.endswith(("query/bias", "key/bias", "value/bias")):
        return array.reshape(-1)
    return array.T if name.endswith("/kernel") else array
