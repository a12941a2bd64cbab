"""The models that ours are compared with, at the same sizes and without dropout.

Everything else is as each package has it: initial values, activations, attention.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path


def keras_example(size):
    """The model of keras.io's ViViT example, written from the paper's description.

    Keras' own layers alone: convolution, learned positions, pre-norm blocks of
    `MultiHeadAttention` and two dense layers, mean of the tokens, softmax.
    """
    import keras
    from keras import layers

    class Positions(layers.Layer):
        def build(self, input_shape):
            self.table = self.add_weight(shape=input_shape[1:], name="table")

        def call(self, inputs):
            return inputs + self.table

    def norm(x):
        return layers.LayerNormalization(epsilon=1e-6)(x)

    dim, heads = size.embed_dim, size.num_heads
    video = keras.Input(size.video)
    x = layers.Conv3D(dim, size.tubelet, size.tubelet, padding="valid")(video)
    x = Positions()(layers.Reshape((-1, dim))(x))
    for _ in range(size.num_layers):
        y = norm(x)
        x = layers.Add()([layers.MultiHeadAttention(heads, dim // heads)(y, y), x])
        y = layers.Dense(size.mlp_dim, activation="gelu")(norm(x))
        x = layers.Add()([layers.Dense(dim)(y), x])
    x = layers.GlobalAveragePooling1D()(norm(x))
    return keras.Model(video, layers.Dense(size.num_classes, "softmax")(x))


def transformers(size):
    """`transformers`' ViViT, variant 1 with class token, and its layout of videos."""
    import transformers

    frames, height, width, channels = size.video
    if height != width:
        raise ValueError(f"Frames must be square. Received: {height} x {width}")
    config = transformers.VivitConfig(
        image_size=height,
        num_frames=frames,
        tubelet_size=list(size.tubelet),
        num_channels=channels,
        hidden_size=size.embed_dim,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=size.mlp_dim,
        num_labels=size.num_classes,
    )
    model = transformers.VivitForVideoClassification(config)
    return model, lambda videos: videos.transpose(0, 1, 4, 2, 3)


def vit_pytorch(size, variant=1):
    """`vit-pytorch`'s 3-D ViT with class token, or variants 2 and 3 of its ViViT.

    It takes no videos that its tubelets do not fill: the rest, which "valid" padding
    ignores in other models, is cut off before.
    """
    frames, height, width = size.used
    options = {
        "image_size": (height, width),
        "image_patch_size": size.tubelet[1:],
        "frames": frames,
        "frame_patch_size": size.tubelet[0],
        "num_classes": size.num_classes,
        "dim": size.embed_dim,
        "heads": size.num_heads,
        "dim_head": size.embed_dim // size.num_heads,
        "mlp_dim": size.mlp_dim,
        "channels": size.video[-1],
    }
    if variant == 1:
        model = vit_pytorch_module("vit_3d").ViT(depth=size.num_layers, **options)
    else:
        encoder = variant == 2
        model = vit_pytorch_module("vivit").ViViT(
            variant="factorized_encoder" if encoder else "factorized_self_attention",
            pool="mean",
            spatial_depth=size.num_layers,
            temporal_depth=size.num_temporal_layers if encoder else size.num_layers,
            **options,
        )
    return model, lambda videos: videos[:, :frames, :height, :width].transpose(
        0, 4, 1, 2, 3
    )


def vit_pytorch_module(name):
    """Imports one file: the package's `__init__` needs torchvision."""
    name = f"vit_pytorch.{name}"
    if name not in sys.modules:
        (folder,) = find_spec("vit_pytorch").submodule_search_locations
        path = Path(folder, f"{name.partition('.')[2]}.py")
        spec = spec_from_file_location(name, path)
        sys.modules[name] = module_from_spec(spec)  # where `torch.compile` looks
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def torch_peer(name, size):
    """Returns a PyTorch module and the function that lays videos out for it."""
    if name == "transformers":
        return transformers(size)
    return vit_pytorch(size, int(name.removeprefix("vit-pytorch").strip("-") or 1))
