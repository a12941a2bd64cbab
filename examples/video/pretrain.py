"""Pre-trains an encoder on videos or volumes without labels, for `train.py --init`.

    python examples/video/pretrain.py                                # made-up videos
    python examples/video/pretrain.py FOLDER
    python examples/video/pretrain.py FOLDER --window -160 240       # volumes
    python examples/video/train.py FOLDER --init runs/FOLDER-pretrain-seed0/preset

FOLDER is that of `train.py`; its classes do not matter, and test files are never read.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import pretraining, run_folder
from common.command_line import InputError, choose_backend, exit_status, input_errors

from video import moving_shapes
from video.train import COMMON, MADE_UP, VARIANTS, add_common, places

# One encoder cannot have a mask for each of its stages.
_VARIANTS = [name for name in VARIANTS if name != "factorized_encoder"]
DECODER = {
    "decoder_dim": 48,
    "decoder_num_layers": 2,
    "decoder_num_heads": 4,
    "decoder_mlp_dim": 192,
}
# Frames are alike in videos and slices differ: that much can be hidden of each.
MASK_RATIOS = {"videos": 0.9, "volumes": 0.75}
LEARNING_RATE, EPOCHS = 1e-3, 200


def main(arguments=None):
    return exit_status(run, parse(arguments))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--variant", choices=_VARIANTS, default=_VARIANTS[0])
    add("--mask-ratio", type=float, metavar="SHARE", help="of the tokens to hide")
    add("--out", type=Path, help="results (default: runs/FOLDER-pretrain-seedN)")
    add_common(add)
    return parser.parse_args(arguments)


def run(options):
    folder, out = places(options, "pretrain")
    earlier = run_folder.record_of(out) if options.resume else {}
    if not options.resume:
        run_folder.check_new(out)
    configuration = {
        **configure(options, folder),
        "backend": choose_backend(earlier.get("backend")),
    }
    # Keras starts a backend when it is imported: only now, when nothing is wrong.
    from common import versions

    if options.folder is None:
        moving_shapes.write(folder)

    from video import report, training

    with input_errors():
        training.complete(configuration)
        check_grid(configuration, training.tubelets_of(configuration))
        sets = training.read(configuration, label_mode=None)
        model = build(configuration)
    if options.resume:
        run_folder.check_unchanged(out, configuration)
    else:
        run_folder.start(out, configuration)
    if (out / "preset").exists():
        print(f"The run in {out} is finished; making its report again.")
    else:
        run_folder.note(out, versions=versions.installed())
        pretrain(model, sets, configuration, out, options.verbose)
    about = report.about_pretraining(sets, run_folder.record_of(out))
    pretraining.report(out, "preset", about, report.Clips(sets.validation))
    print(f"Next: python examples/video/train.py {folder} --init {out / 'preset'}")


def configure(options, folder):
    """Returns the settings of a run; those that depend on files come later."""
    kind = "volumes" if options.window else "videos"
    configuration = {
        **{name: getattr(options, name) for name in COMMON},
        "variant": options.variant,
        "mask_ratio": MASK_RATIOS[kind],
        "checkpoint": None,
        "image_vit": None,
        "balanced": False,
        "config": "pretrain",
        "dataset": folder.stem if options.folder else "moving shapes",
        "data": "files" if options.folder else "synthetic",
        "data_path": str(folder.resolve()),
        "learning_rate": options.learning_rate or LEARNING_RATE,
        "epochs": options.epochs or EPOCHS,
        "patience": None,
    }
    if options.mask_ratio is not None:
        configuration["mask_ratio"] = options.mask_ratio
    if options.folder is None:
        configuration |= {**MADE_UP, "epochs": options.epochs or 30}
    if options.window and not options.grid:
        configuration["grid"] = (7, 7, 7)
    return configuration


def check_grid(configuration, tubelets):
    """Raises where tubelets overlap: a hidden one would be seen in the next one."""
    tubelet_size, strides = tubelets
    if tubelet_size != strides:
        raise InputError(
            "`--grid` must divide `--frames` and `--size`. "
            f"Received: --grid {configuration['grid']} for tubelets of {tubelet_size}."
        )


def build(configuration):
    """Returns the model; the same seed gives the same weights."""
    import keras

    import keras_vivit
    from video import training

    keras.utils.set_random_seed(configuration["seed"])
    ours = ("embed_dim", "num_layers", "num_heads", "mlp_dim", "rescaling")
    return keras_vivit.ViViTMaskedAutoencoder(
        training.shape_of(configuration),
        tubelet_size=training.tubelets_of(configuration)[0],
        variant=configuration["variant"],
        mask_ratio=configuration["mask_ratio"],
        seed=configuration["seed"],
        **{name: training.SCRATCH[name] for name in ours},
        **DECODER,
    )


def pretrain(model, sets, configuration, folder, verbose):
    """Trains, or resumes training, and saves the model into `folder / "preset"`."""
    from video import training

    print(
        f"Pre-training a ViViT ({configuration['variant']}, {model.count_params():,} "
        f"weights)\non {len(sets.train.files)} files for {configuration['epochs']} "
        f"epochs, validated on {len(sets.validation.files)}.",
        flush=True,
    )
    batches = training.AugmentedClips(sets.train, training.layers_for(configuration))
    training.compile_model(model, configuration, len(batches), loss=None)
    pretraining.train(
        model,
        batches,
        sets.validation,
        folder,
        "preset",
        epochs=configuration["epochs"],
        verbose=verbose,
    )


if __name__ == "__main__":
    sys.exit(main())
