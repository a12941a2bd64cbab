"""Trains a ViViT from scratch on OrganMNIST3D and shows what it learned.

    python examples/organmnist3d/train.py

`--config quick`, the default, takes minutes on two CPU cores; `--config tuned` is more
accurate and takes longer; `--config baseline` is the Keras example "Video Vision
Transformer". README.md has the expected accuracy and run time of each.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from configs import CONFIGS, VARIANTS
from data import FOLDS, SETS, SIZES, load, share_of, with_fold

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import run_folder
from common.command_line import (
    InputError,
    choose_backend,
    exit_status,
    first,
    launched,
    positive,
    resumes,
    share,
    whole,
)


def main(arguments=None):
    return exit_status(run, parse(arguments))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--config", default="quick", choices=CONFIGS)
    add("--variant", default=VARIANTS[0], choices=VARIANTS, help="of the ViViT paper")
    add("--data", help="npz file, or 'synthetic' (default: download once)")
    add("--dataset", default="organmnist3d", choices=SETS, metavar="NAME")
    add("--size", type=int, default=28, choices=SIZES, help="voxels along each axis")
    add("--init", metavar="FOLDER", help="start from the model of pretrain.py in it")
    add(
        "--train-share",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="use this share of the training volumes, for example 0.1",
    )
    add(
        "--fold",
        type=int,
        choices=range(FOLDS),
        help="hold a quarter of the training volumes out, and test on them instead",
    )
    add("--seed", type=whole, default=0)
    add("--epochs", type=positive, help="default: the configuration's")
    add("--batch-size", type=positive, help="default: the configuration's")
    add(
        "--patience",
        type=positive,
        help="stop after so many epochs without a better val_loss, and keep the best",
    )
    add(
        "--precision",
        default="float32",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    add("--out", type=Path, help="results (default: runs/DATASET-CONFIG-VARIANT-seedN)")
    add("--resume", action="store_true", help="resume an interrupted run")
    add("--devices", type=positive, metavar="N", help="JAX: divide batches among N")
    add(
        "--model-parallel",
        type=positive,
        default=1,
        metavar="M",
        help="JAX: divide the model's heads and MLPs among M of the devices",
    )
    add("--tensorboard", action="store_true", help="log for TensorBoard, too")
    add("--verbose", action="store_true", help="show Keras' progress bars")
    return parser.parse_args(arguments)


def run(options):
    if options.tensorboard and not find_spec("tensorflow"):
        raise InputError(
            "`--tensorboard` needs the package tensorflow, whatever the backend is: "
            "Keras writes its logs with it. Received: an environment without it."
        )
    data = load(options.dataset, options.size, options.data)
    name = f"{data.name}-{options.config}-{options.variant}-seed{options.seed}"
    changes = {}
    if options.init:
        name += "-init"
        changes["init"] = str(Path(options.init).resolve())
    if options.fold is not None:
        name += f"-fold{options.fold}"
        changes["fold"] = options.fold
    data = with_fold(data, options.fold)
    if options.train_share < 1:
        name += f"-share{options.train_share:g}"
        changes["train_share"] = options.train_share
        train = share_of(data.train, options.train_share, options.seed)
        data = data._replace(train=train)
    folder = options.out or Path("runs") / name
    resume = resumes(options, folder)
    earlier = run_folder.record_of(folder) if resume else {}
    configuration = {
        "config": options.config,
        "variant": options.variant,
        "dataset": data.name,
        "data": data.source,
        "data_md5": data.md5,
        "size": options.size,
        "seed": options.seed,
        "precision": options.precision,
        "backend": choose_backend(earlier.get("backend"), several=True),
        **CONFIGS[options.config],
        **changes,
    }
    for name in ("epochs", "batch_size", "patience"):
        if (value := getattr(options, name)) is not None:
            configuration[name] = value
    if options.devices or options.model_parallel > 1:
        if configuration["backend"] != "jax":
            raise InputError(
                "`--devices` and `--model-parallel` need the backend jax. "
                f"Received: {configuration['backend']}."
            )
        from common import devices

        devices.distribute(options.devices, options.model_parallel, configuration)
    if launched():
        from common import processes

        processes.join()
        processes.check_batch(configuration["batch_size"])
    if resume:
        run_folder.check_unchanged(folder, configuration)
    else:
        first(run_folder.start, folder, {**configuration, "data_path": data.path})

    # Keras starts a backend when it is imported: only now, when nothing is wrong.
    import report
    import training
    from common import processes, versions
    from common.report import heat

    finished = processes.gather((folder / "model.keras").exists())[0]
    if finished:
        print(f"The run in {folder} is finished; making its report again.")
    else:
        first(lambda: run_folder.note(folder, versions=versions.installed()))
        callbacks = training.tensorboard(folder) if options.tensorboard else []
        model = training.train(data, configuration, folder, callbacks, options.verbose)
    if finished or processes.count() > 1:
        processes.alone()
        model = training.load(folder)
    predictions = training.predict_two_views(model, data, options.verbose)
    if processes.index() == 0:
        report.write(folder, data, *predictions, heat.explain(model))


if __name__ == "__main__":
    sys.exit(main())
