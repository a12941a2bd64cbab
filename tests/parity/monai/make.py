"""Writes small state dicts of MONAI's 3-D `ViT` with random weights, and its outputs.

    python tests/parity/monai/make.py

The stored files are those of MONAI 1.6.1 and PyTorch 2.13.0.
"""

import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
SIZES = {"hidden_size": 24, "mlp_dim": 40, "num_layers": 2, "num_heads": 3}
TOKENS = {"img_size": (8, 16, 12), "patch_size": (2, 4, 4)}
CLASSES = {
    "img_size": (8, 12, 20),
    "patch_size": (4, 4, 4),
    "classification": True,
    "num_classes": 5,
}
CASES = {
    "conv_tokens": {"in_channels": 1, "pos_embed_type": "sincos", **TOKENS},
    "conv_classes": {"in_channels": 1, **CLASSES},
    "perceptron_tokens": {
        "in_channels": 2,
        "proj_type": "perceptron",
        "qkv_bias": True,
        **TOKENS,
    },
    "perceptron_classes": {
        "in_channels": 1,
        "proj_type": "perceptron",
        "post_activation": None,
        **CLASSES,
    },
}


def write(folder):
    """Writes each of `CASES`, those with a `conv` embedding as safetensors."""
    import torch
    from monai.networks.nets import ViT
    from safetensors import torch as safetensors

    for seed, (name, arguments) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        model = ViT(**SIZES, **arguments).eval()
        shape = (2, *arguments["img_size"], arguments["in_channels"])
        inputs = np.random.default_rng(seed).normal(size=shape).astype("float32")
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:  # not the sines and cosines
                    weight.normal_(0, 0.25)
            outputs, _ = model(torch.tensor(inputs).movedim(-1, 1))
        state = model.state_dict()
        if name.startswith("conv"):
            state = {name: tensor.contiguous() for name, tensor in state.items()}
            safetensors.save_file(state, folder / f"{name}.safetensors")
        else:
            torch.save(state, folder / f"{name}.pt")
        np.savez(folder / f"{name}.npz", inputs=inputs, outputs=outputs.numpy())


if __name__ == "__main__":
    write(HERE)
