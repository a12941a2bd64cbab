"""Pre-trains an encoder on volumes without labels, for `train.py --init`.

    python examples/organmnist3d/pretrain.py
    python examples/organmnist3d/train.py --init runs/pretrain-.../model

It takes the training volumes of OrganMNIST3D, and with `--also` those of other sets.
Validation and test volumes are never trained on.
"""

import argparse
import sys
from pathlib import Path

import about_medmnist
import numpy as np
from configs import PRETRAINING, VARIANTS
from data import SETS, SIZES, Split, load

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import pretraining, run_folder
from common.command_line import choose_backend, exit_status, positive, whole

# One encoder cannot have a mask for each of its stages.
_VARIANTS = [name for name in VARIANTS if name != "factorized_encoder"]


def main(arguments=None):
    return exit_status(run, parse(arguments))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--variant", default=_VARIANTS[0], choices=_VARIANTS, help="of the ViViT paper")
    add("--data", help="npz file, or 'synthetic' (default: download once)")
    add("--dataset", default="organmnist3d", choices=SETS, metavar="NAME")
    add(
        "--also",
        default=[],
        nargs="+",
        choices=SETS,
        metavar="NAME",
        help="train on the training volumes of these sets, too",
    )
    add("--size", type=int, default=28, choices=SIZES, help="voxels along each axis")
    add(
        "--tubelet",
        type=positive,
        metavar="N",
        help="edge of tubelets side by side, voxels (default: 8, in strides of 5)",
    )
    add("--seed", type=whole, default=0)
    add("--epochs", type=positive, help="default: the configuration's")
    add("--batch-size", type=positive, help="default: the configuration's")
    add(
        "--precision",
        default="float32",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    add(
        "--out",
        type=Path,
        help="results (default: runs/pretrain-DATASET-VARIANT-seedN)",
    )
    add("--resume", action="store_true", help="resume an interrupted run")
    add("--verbose", action="store_true", help="show Keras' progress bars")
    return parser.parse_args(arguments)


def run(options):
    data = load(options.dataset, options.size, options.data)
    others = [load(name, options.size) for name in options.also]
    name = f"pretrain-{data.name}-{options.variant}-seed{options.seed}"
    folder = options.out or Path("runs") / name
    earlier = run_folder.record_of(folder) if options.resume else {}
    configuration = {
        "variant": options.variant,
        "dataset": data.name,
        "also": options.also,
        "data_md5": [x.md5 for x in (data, *others)],
        "size": options.size,
        "seed": options.seed,
        "precision": options.precision,
        "backend": choose_backend(earlier.get("backend")),
        **PRETRAINING,
    }
    for name in ("tubelet", "epochs", "batch_size"):
        if (value := getattr(options, name)) is not None:
            configuration[name] = value
    if options.resume:
        run_folder.check_unchanged(folder, configuration)
    else:
        run_folder.start(folder, configuration)

    # Keras starts a backend when it is imported: only now, when nothing is wrong.
    from common import versions

    parts = [x.train.images for x in (data, *others)]
    if (folder / "model").exists():
        print(f"The run in {folder} is finished; making its report again.")
    else:
        run_folder.note(folder, versions=versions.installed())
        pretrain(np.concatenate(parts), data, configuration, folder, options.verbose)
    about = about_medmnist.about_pretraining(
        data, run_folder.record_of(folder), sum(map(len, parts))
    )
    pretraining.report(folder, "model", about, data.val.images)
    print(f"Next: python examples/organmnist3d/train.py --init {folder / 'model'}")


def build(configuration, video_shape):
    """Returns the model; the same seed gives the same weights."""
    import keras

    import keras_vivit

    keras.utils.set_random_seed(configuration["seed"])
    variant = configuration["variant"]
    tubelets = {}
    if edge := configuration.get("tubelet"):
        tubelets = {"tubelet_size": (edge,) * 3, "strides": None}
    return keras_vivit.ViViTMaskedAutoencoder.from_preset(
        configuration["preset"],
        load_weights=False,
        video_shape=video_shape,
        seed=configuration["seed"],
        dtype=configuration["precision"],
        variant=variant,
        **tubelets,
        **{**configuration["model"], **configuration["variants"].get(variant, {})},
    )


def pretrain(images, data, configuration, folder, verbose):
    """Trains, or resumes training, and saves the model into `folder / "model"`."""
    import training

    model = build(configuration, images.shape[1:])
    batch_size = configuration["batch_size"]
    # Labels, which Keras ignores without a loss, are all 0.
    volumes = Split(images, np.zeros(len(images), "int64"))
    augment = training.layers_for(
        configuration["augmentation"], data.sides, labels=False
    )
    batches = training.Batches(volumes, 1, batch_size, configuration["seed"], augment)
    model.compile(training.optimizer(configuration, len(batches)))
    model.optimizer.build(model.trainable_variables)
    training.describe(model, data._replace(train=volumes), configuration)
    pretraining.train(
        model,
        batches,
        (data.val.images,),
        folder,
        "model",
        epochs=configuration["epochs"],
        validation_batch_size=training.even_batch(len(data.val.labels), batch_size),
        verbose=verbose,
    )


if __name__ == "__main__":
    sys.exit(main())
