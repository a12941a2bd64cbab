"""Writes a run's model as the weights of a preset of the library.

    python examples/organmnist3d/ship.py RUN_FOLDER

overwrites `keras_vivit/weights/PRESET.npz`, where PRESET is the one that the run's
configuration starts from. Half precision: 16 bits per weight, half the download.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import run_folder
from common.command_line import choose_backend


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--out", type=Path, help="default: the preset's own file")
    options = parser.parse_args(arguments)
    record = run_folder.record_of(options.folder)
    choose_backend(record["backend"])

    import training

    from keras_vivit import presets
    from keras_vivit.checkpoints import names

    target = options.out or presets.PRESETS[record["preset"]]["weights"]
    tensors = names.tensors_of(training.load(options.folder))
    np.savez(target, **{name: x.astype("float16") for name, x in tensors.items()})
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, {len(tensors)} tensors.")


if __name__ == "__main__":
    sys.exit(main())
