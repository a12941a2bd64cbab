"""Video Vision Transformer layers and models for Keras 3."""

__version__ = "0.1.0"

from keras_vivit import (
    augmentation,
    config,
    data,
    initializers,
    optimizers,
    visualization,
)
from keras_vivit.backbone import ViViTBackbone
from keras_vivit.blocks import (
    FactorizedDotProductBlock,
    FactorizedSelfAttentionBlock,
    ViViTEncoderBlock,
)
from keras_vivit.checkpoints import save_to_transformers, upload_preset
from keras_vivit.classifier import ViViTClassifier
from keras_vivit.distribution import layout_map
from keras_vivit.dropout import DropPath
from keras_vivit.embeddings import ClassToken, TubeletEmbedding
from keras_vivit.pooling import TokenPooling
from keras_vivit.positions import PositionalEncoder, resize_position_table
from keras_vivit.pretraining import ViViTMaskedAutoencoder

__all__ = [
    "ClassToken",
    "DropPath",
    "FactorizedDotProductBlock",
    "FactorizedSelfAttentionBlock",
    "PositionalEncoder",
    "TokenPooling",
    "TubeletEmbedding",
    "ViViTBackbone",
    "ViViTClassifier",
    "ViViTEncoderBlock",
    "ViViTMaskedAutoencoder",
    "augmentation",
    "config",
    "data",
    "initializers",
    "layout_map",
    "optimizers",
    "resize_position_table",
    "save_to_transformers",
    "upload_preset",
    "visualization",
]
