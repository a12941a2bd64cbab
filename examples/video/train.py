"""Trains a ViViT on a folder of videos or volumes, and saves it as a preset.

    python examples/video/train.py                                # made-up videos
    python examples/video/train.py FOLDER
    python examples/video/train.py FOLDER --checkpoint SOURCE --frozen
    python examples/video/train.py FOLDER --window -160 240       # volumes

FOLDER has CLASS/*, or train/CLASS/* and test/CLASS/*, or a table clips.csv. Without it,
the script encodes a small set of videos, and is done in two minutes. `predict.py` and
`from_preset` take the folder `preset` of the run.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import run_folder
from common.command_line import (
    InputError,
    choose_backend,
    exit_status,
    first,
    input_errors,
    launched,
    positive,
    resumes,
    share,
    whole,
)

from video import moving_shapes

VARIANTS = (
    "spatio_temporal",
    "factorized_encoder",
    "factorized_self_attention",
    "factorized_dot_product",
)
# What is trained -> learning rate, epochs, epochs of patience.
SCHEDULES = {
    "scratch": (1e-3, 40, 10),
    "image": (2e-5, 20, 5),
    "checkpoint": (1e-4, 20, 5),
    "frozen": (3e-3, 60, 10),
    "init": (5e-4, 40, 10),
}
# Settings of files and clips, which pretrain.py has, too.
COMMON = ("frames", "size", "grid", "stride", "fps", "window", "flip", "classes")
COMMON += ("validation_split", "batch_size", "seed", "cache")
# Of the made-up videos: clips that show the whole motion.
MADE_UP = {"frames": 8, "size": 32, "grid": (4, 4, 4), "stride": 3}


def main(arguments=None):
    return exit_status(run, parse(arguments))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--checkpoint", metavar="SOURCE", help="fine-tune what `from_preset` loads"
    )
    start.add_argument(
        "--image-vit", metavar="SOURCE", help="start as what `from_image_preset` loads"
    )
    start.add_argument(
        "--init", metavar="FOLDER", help="start as what pretrain.py saved in it"
    )
    add("--frozen", action="store_true", help="train only what is new: fast")
    add("--variant", choices=VARIANTS, help=f"default: {VARIANTS[0]}")
    add(
        "--train-share",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="use this share of each class' training files, for example 0.1",
    )
    add("--balanced", action="store_true", help="draw each class equally often")
    add("--patience", type=positive, help="epochs without a better val_loss")
    add("--out", type=Path, help="results (default: runs/FOLDER-START-seedN)")
    add_common(add)
    return parser.parse_args(arguments)


def add_common(add):
    """Adds the options that pretrain.py has, too: files, clips, and how to run."""
    add("folder", nargs="?", type=Path, help="default: videos that are made up")
    add("--frames", type=positive, help="of a clip; slices of a volume")
    add("--size", type=positive, help="height and width, pixels")
    add("--grid", type=positive, nargs=3, metavar="N", help="tubelets along t, h, w")
    add("--stride", type=positive, help="frames from one of a clip to the next one")
    add("--fps", type=positive, help="sample all videos as if at this rate")
    add("--window", type=float, nargs=2, metavar="X", help="volumes: values for 0, 255")
    add("--flip", nargs="*", choices=("frames", "height", "width"), help="mirror axes")
    add("--classes", nargs="+", metavar="NAME", help="leave out files of others")
    add("--validation-split", type=float, default=0.2, metavar="SHARE")
    add("--epochs", type=positive)
    add("--learning-rate", type=float)
    add("--batch-size", type=positive, default=8)
    add("--seed", type=whole, default=0)
    add("--cache", type=float, default=1.0, metavar="GIB", help="of decoded files")
    add("--resume", action="store_true", help="resume an interrupted run")
    add("--verbose", action="store_true", help="show Keras' progress bars")


def run(options):
    start = start_of(options)
    if options.train_share < 1:
        start += f"-share{options.train_share:g}"
    folder, out = places(options, start)
    resume = resumes(options, out)
    earlier = run_folder.record_of(out) if resume else {}
    if not resume and not launched():
        run_folder.check_new(out)
    configuration = {
        **configure(options, folder),
        "backend": choose_backend(earlier.get("backend"), several=True),
    }
    # Keras starts a backend when it is imported: only now, when nothing is wrong.
    from common import processes, versions
    from common.report import heat

    processes.join()
    processes.check_batch(options.batch_size)
    if options.folder is None:
        first(moving_shapes.write, folder)

    from video import report, training

    with input_errors():
        training.complete(configuration)
        sets = training.read(configuration)
        model = training.build(configuration, sets)
    if resume:
        run_folder.check_unchanged(out, configuration)
    else:
        first(run_folder.start, out, configuration)
    first(lambda: run_folder.note(out, versions=versions.installed()))

    finished = processes.gather((out / "preset").exists())[0]
    if finished:
        print(f"The run in {out} is finished; making its report again.")
    else:
        training.train(model, sets, configuration, out, options.verbose)
    if finished or processes.count() > 1:
        processes.alone()
        model = training.ViViTClassifier.from_preset(out / "preset")
    probabilities = training.predict(model, sets.test)
    if processes.index() == 0:
        report.write(out, sets, probabilities, heat.explain(model))


def places(options, start):
    """Returns the folder of the data, and that of the run."""
    folder = options.folder or Path("runs") / "moving-shapes-videos"
    if options.folder and not folder.exists():
        raise InputError(
            f"FOLDER must be a folder, or a table of files. Received: {folder}."
        )
    name = folder.stem if options.folder else "moving-shapes"
    name = f"{name}-{start}-seed{options.seed}"
    return folder, options.out or Path("runs") / name


def start_of(options):
    if options.frozen:
        return "frozen"
    if options.image_vit:
        return "image"
    if options.init:
        return "init"
    return "checkpoint" if options.checkpoint else "scratch"


def configure(options, folder):
    """Returns the settings of a run; those that depend on files come later."""
    source = options.checkpoint or options.init
    if options.frozen and not source and not options.image_vit:
        raise InputError(
            "`--frozen` needs `--checkpoint`, `--image-vit` or `--init`: random "
            "weights must train. Received: none."
        )
    if options.frozen and launched():
        raise InputError(
            "`--frozen` must be left out where several processes train: one process "
            "trains a head in seconds. Received: --frozen."
        )
    if source and (options.variant or options.grid):
        raise InputError(
            "`--variant` and `--grid` must be left out with `--checkpoint` and "
            f"`--init`, which tell both. Received: {options.variant or options.grid}."
        )
    if not 0 < options.validation_split < 1:
        raise InputError(
            "`--validation-split` must be between 0 and 1. "
            f"Received: {options.validation_split}."
        )
    start = start_of(options)
    rate, epochs, patience = SCHEDULES[start]
    names = ("checkpoint", "image_vit", "frozen", "variant", "balanced")
    configuration = {
        **{name: getattr(options, name) for name in (*names, *COMMON)},
        "config": start,
        "dataset": folder.stem if options.folder else "moving shapes",
        "data": "files" if options.folder else "synthetic",
        "data_path": str(folder.resolve()),
        "learning_rate": options.learning_rate or rate,
        "epochs": epochs,
        "patience": patience,
    }
    if options.init:
        configuration["init"] = str(Path(options.init).resolve())
    if options.train_share < 1:
        configuration["train_share"] = options.train_share
    if not source:
        configuration["variant"] = options.variant or VARIANTS[0]
    if options.folder is None and start == "scratch":
        configuration |= {**MADE_UP, "epochs": 15, "patience": None}
    for name in ("epochs", "patience", *MADE_UP):
        if (value := getattr(options, name)) is not None:
            configuration[name] = value
    return configuration


if __name__ == "__main__":
    sys.exit(main())
