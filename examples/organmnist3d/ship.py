"""Writes a run's model as the weights of a preset of the library.

    python examples/organmnist3d/ship.py RUN_FOLDER

overwrites `keras_vivit/weights/PRESET.npz`, where PRESET is the one that the run's
configuration starts from. Half precision: 16 bits per weight, half the download.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import run_folder
from common.command_line import InputError, choose_backend, exit_status


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--out", type=Path, help="default: the preset's own file")
    options = parser.parse_args(arguments)
    return exit_status(run, options)


def run(options):
    record = run_folder.record_of(options.folder)
    choose_backend(record["backend"])

    import training

    from keras_vivit import presets
    from keras_vivit.checkpoints import names

    model = training.load(options.folder)
    preset = presets.PRESETS[record["preset"]]
    check_architecture(model.get_config(), preset["config"])
    target = options.out or preset["weights"]
    tensors = names.tensors_of(model)
    np.savez(target, **{name: x.astype("float16") for name, x in tensors.items()})
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {len(tensors)} tensors.")


def check_architecture(found, expected):
    """Raises if a run has another architecture than the preset it starts from."""
    changes = [
        f"{name}={found[name]!r} instead of {value!r}"
        for name, value in expected.items()
        if name != "num_temporal_layers"  # of another variant
        and json.dumps(found[name]) != json.dumps(value)
    ]
    if changes:
        raise InputError(
            "The run must have the preset's architecture (`--config tuned`). "
            f"Received: {', '.join(changes)}."
        )


if __name__ == "__main__":
    sys.exit(main())
