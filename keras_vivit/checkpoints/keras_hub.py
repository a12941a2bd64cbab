"""Image models of KerasHub."""

import functools
import re

import keras

from keras_vivit.checkpoints.tensors import Checkpoint, Tensor, Tensors

_NAMES = {
    r"(^|.*/)class_token": "cls",
    r"(^|.*/)patch_embedding/": "embedding/",
    r"(^|.*/)position_embedding/embeddings": "Transformer/posembed_input/pos_embedding",
    r"(^|.*/)ln/": "Transformer/encoder_norm/",
    r"(^|.*/)transformer_block_": "Transformer/encoderblock_",
    r"ln_1/": "LayerNorm_0/",
    r"ln_2/": "LayerNorm_1/",
    r"mha/attention_output/": "MultiHeadDotProductAttention_0/out/",
    r"mha/": "MultiHeadDotProductAttention_0/",
    r"mlp/dense_1/": "MlpBlock_0/Dense_0/",
    r"mlp/dense_2/": "MlpBlock_0/Dense_1/",
    r"gamma$": "scale",
    r"beta$": "bias",
}


def read(model: keras.Model) -> Checkpoint:
    """Returns the tensors of a `keras_hub.models.ViTBackbone`.

    Raises:
        ValueError: If it is another model.
    """
    if not hasattr(model, "image_shape") or not hasattr(model, "layer_norm_epsilon"):
        raise ValueError(
            "`source` must be a `keras_hub.models.ViTBackbone`, if it is a model. "
            f"Received: {type(model).__name__}"
        )
    tensors: Tensors = {}
    for weight in model.weights:
        name = weight.path
        for pattern, scenic in _NAMES.items():
            name = re.sub(pattern, scenic, name)
        # KerasHub's blocks count from 1.
        name = re.sub(r"(?<=block_)\d+", lambda m: str(int(m[0]) - 1), name)
        tensor = Tensor(
            tuple(weight.shape),
            functools.partial(keras.ops.convert_to_numpy, weight),
        )
        batched = name.endswith("pos_embedding")
        tensors[name] = tensor.map(lambda x: x[None]) if batched else tensor
    settings = {
        "video_shape": (1, *model.image_shape),
        "activation": "gelu",
        "layer_norm_epsilon": model.layer_norm_epsilon,
    }
    return Checkpoint(tensors, settings)
