"""Prints the tables of presets in `checkpoints.md`.

python docs/presets.py
"""

import keras

from keras_vivit import ViViTClassifier
from keras_vivit.backbone import VARIANTS
from keras_vivit.presets import PRESETS


def parameters(name):
    """Counts a preset's parameters without the memory for them."""
    with keras.StatelessScope(initialize_variables=False):
        model = ViViTClassifier.from_preset(name, load_weights=False)
    return model.count_params()


def row(name, *cells):
    config = PRESETS[name]["config"]
    size = (config[key] for key in ("embed_dim", "num_layers", "num_heads", "mlp_dim"))
    return f"| {' | '.join(map(str, (f'`{cells[0]}`', *size, *cells[1:])))} |"


def tables():
    """The rows of both tables: the paper's family, and the models for volumes."""
    sizes = dict.fromkeys(name.split("_")[1] for name in PRESETS if "x2_" in name)
    for size in sizes:
        names = [f"vivit_{size}_{variant}" for variant in VARIANTS]
        counts = (parameters(x) / 1e6 if x in PRESETS else None for x in names)
        yield row(names[0], size, *(f"{x:.1f}" if x else "" for x in counts))
    for name, preset in PRESETS.items():
        if "x2_" not in name:
            weights = "yes" if "weights" in preset else "no"
            yield row(name, name, f"{parameters(name):,}", weights)


if __name__ == "__main__":
    print(*tables(), sep="\n")
