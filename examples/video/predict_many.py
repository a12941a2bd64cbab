"""Predicts the classes of many videos or volumes with Ray Data, into Parquet files.

    python examples/video/predict_many.py FOLDER --preset PRESET --out DIR
    python examples/video/predict_many.py LIST --preset PRESET --out DIR --address auto

FOLDER is read with the folders in it; LIST has one path a line. DIR/predictions gets a
row for each: `path`, `classes` and `probabilities` (the highest first), `features` if
asked for, and `error`, which says why a file cannot be read. After a kill the same
command predicts the files that are left. Without `--address`, Ray starts on this
machine; the nodes of a cluster need this package, the files and DIR at the same paths.
"""

import argparse
import functools
import os
import pickle
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import run_folder
from common.command_line import (
    InputError,
    choose_backend,
    exit_status,
    input_errors,
    positive,
)

RUNNING = "_running"  # Readers of Parquet folders skip names that start so.


def main(arguments=None):
    return exit_status(run, parse(arguments))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("source", type=Path, metavar="FOLDER_OR_LIST")
    add("--preset", required=True, help="what `from_preset` loads")
    add("--out", type=Path, required=True, metavar="DIR")
    add("--address", help="of a Ray cluster (default: start Ray here)")
    add("--workers", type=positive, help="models (default: one for each GPU, or CPU)")
    add("--batch-size", type=positive, default=16, metavar="N", help="views at once")
    add(
        "--part",
        type=positive,
        default=64,
        metavar="N",
        help="files of a task and of a Parquet file: what a kill loses",
    )
    add("--clips", type=positive, default=4, metavar="N", help="to average over")
    add("--crops", type=int, choices=(1, 3), default=1, help="of each clip")
    add("--top", type=positive, default=5, metavar="N", help="classes to keep")
    add("--features", action="store_true", help="keep what the head is given")
    return parser.parse_args(arguments)


def run(options):
    try:
        import ray
    except ImportError as error:
        raise InputError(
            'Many files need Ray: pip install ".[ray]" (nothing was started).'
        ) from error
    backend = choose_backend()
    files = files_of(options.source)
    preset = options.preset
    preset = os.path.abspath(preset) if os.path.exists(preset) else preset
    names = ("clips", "crops", "top", "features")
    settings = {name: getattr(options, name) for name in names}
    with input_errors():
        layout = layout_of(backend, preset)
    record = {"preset": preset, **settings}
    if (options.out / "run.json").exists():
        run_folder.check_unchanged(options.out, record)
    else:
        run_folder.start(options.out, record)

    ray.init(options.address or "local", log_to_driver=False)
    begin, folder = time.perf_counter(), options.out / "predictions"
    done = settle(folder)
    files = [path for path in files if path not in done]
    print(f"{len(done)} files are done, {len(files)} are left.", flush=True)
    if files:
        (folder / RUNNING).mkdir(parents=True)
        rows = predictions(files, layout, backend, preset, settings, options)
        # A task that is killed and repeated writes the same file again.
        target = str((folder / RUNNING).absolute())
        rows.write_parquet(target, try_create_dir=False)
        settle(folder)
        seconds = time.perf_counter() - begin
        print(f"{len(files)} files in {seconds:.0f} s: {folder}")
    ray.shutdown()


# === Files ===


def files_of(source):
    """Returns the absolute paths of a folder or a list, without repetitions."""
    if source.is_dir():
        paths = clips_in(source)
    else:
        try:
            paths = filter(None, map(str.strip, source.read_text("utf-8").splitlines()))
        except (OSError, UnicodeError) as error:
            raise InputError(
                "FOLDER_OR_LIST must be a folder, or a text file with a path a line. "
                f"Received: {source} ({error})."
            ) from error
    files = list(dict.fromkeys(map(os.path.abspath, paths)))
    if not files:
        raise InputError(f"FOLDER_OR_LIST must name files. Received: {source}.")
    return files


def clips_in(folder):
    """Yields the files in a folder; images and DICOM slices of a folder are one clip.

    Texts and hidden files are no clips.
    """
    from keras_vivit.data import listing

    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [Path(place, name) for name in sorted(names)]
        files = [path for path in files if listing.is_clip(path)]
        yield from [place] if is_one_clip(files) else files


def is_one_clip(files):
    from keras_vivit.data import decoding, dicom

    if files and all(path.suffix.lower() in decoding.IMAGES for path in files):
        return True
    try:
        return len(files) > 1 and all(map(dicom.is_dicom, files))
    except OSError:
        return False


def settle(folder):
    """Makes the rows of the last run final; returns the files that have one.

    What still writes for a killed run cannot open another file in the renamed folder,
    and a file without the end that Parquet writes last is deleted.
    """
    import pyarrow
    from pyarrow import parquet

    if (folder / RUNNING).exists():
        count = len(list(folder.iterdir())) - 1
        (folder / RUNNING).rename(folder / f"{count:04d}")
    done = set()
    for part in folder.glob("*/*.parquet"):
        try:
            done.update(parquet.read_table(part, columns=["path"])["path"].to_pylist())
        except pyarrow.ArrowInvalid:
            part.unlink()
    return done


# === Work, in Ray's processes ===


def predictions(files, layout, backend, preset, settings, options):
    """Returns a dataset of rows, see the top of this file; nothing is computed yet."""
    import ray

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = options.workers or gpus or int(resources["CPU"])
    part = min(options.part, -(-len(files) // workers))
    views = settings["clips"] * settings["crops"]
    batch = max(1, options.batch_size // views)  # files
    # Without GPUs, Ray fuses both steps: a CPU reads a file, and then predicts it.
    return (
        ray.data.from_items(
            [{"path": path} for path in files],
            override_num_blocks=-(-len(files) // part),
        )
        .map(functools.partial(read, layout, backend, settings))
        .map_batches(
            Predictor,
            fn_constructor_args=(backend, preset, settings, batch * views),
            batch_size=batch,
            compute=ray.data.ActorPoolStrategy(size=workers),
            **({"num_gpus": 1} if gpus else {}),
        )
    )


def layout_of(backend, preset):
    """Returns how clips are taken from files for a model."""
    model = load(backend, preset)
    from keras_vivit.data import views

    return views.layout_of(model)


def load(backend, preset):
    os.environ["KERAS_BACKEND"] = backend
    from keras_vivit import ViViTClassifier

    model = ViViTClassifier.from_preset(preset)
    if not isinstance(model.num_classes, int):
        raise ValueError(
            f"`--preset` must have one head. Received: {', '.join(model.num_classes)}"
        )
    return model


def read(layout, backend, settings, row):
    """Adds the views of a file, or why it cannot be read."""
    os.environ["KERAS_BACKEND"] = backend
    from keras_vivit.data import surveying, views

    clips, crops = settings["clips"], settings["crops"]
    try:
        found = views.read_views(row["path"], layout, clips, crops, surveying.survey)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        return {**row, "views": b"", "error": reason}
    # As bytes: views of files differ in number and type, columns must not.
    return {**row, "views": pickle.dumps(found), "error": ""}


class Predictor:
    """Holds a model, and turns the views of files into rows."""

    def __init__(self, backend, preset, settings, batch_size):
        model = load(backend, preset)
        import keras

        from keras_vivit.data import views

        self.names = model.class_names or list(map(str, range(model.num_classes)))
        self.top, self.batch_size = settings["top"], batch_size
        self.merge = functools.partial(
            views.merge, kind=views.activation_of(model), average="logits"
        )
        outputs = {"probabilities": model.output}
        if settings["features"]:
            outputs["features"] = model.get_layer("head").input
        self.model = keras.Model(model.input, outputs)

    def __call__(self, batch):
        import pyarrow

        texts, numbers = map(pyarrow.list_, (pyarrow.string(), pyarrow.float32()))
        schema = {"path": pyarrow.string(), "classes": texts, "probabilities": numbers}
        schema |= {"features": numbers, "error": pyarrow.string()}
        views = [pickle.loads(found) for found in batch["views"] if found]
        predicted = map(self.row, self.predict(views) if views else [])
        rows = [
            {
                "path": path,
                "error": error or None,
                **({} if error else next(predicted)),
            }
            for path, error in zip(batch["path"], batch["error"], strict=True)
        ]
        return pyarrow.Table.from_pylist(rows, pyarrow.schema(schema))

    def predict(self, views):
        """Yields the outputs for each file's views."""
        import numpy as np

        ends, views = np.cumsum([len(found) for found in views]), np.concatenate(views)
        # With one shape for all batches, a model is compiled once.
        count = -(-len(views) // self.batch_size) * self.batch_size
        views = np.resize(views, (count, *views.shape[1:]))
        outputs = self.model.predict(views, batch_size=self.batch_size, verbose=0)
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            yield {name: values[start:end] for name, values in outputs.items()}

    def row(self, outputs):
        probabilities = self.merge(outputs["probabilities"])
        best = (-probabilities).argsort(kind="stable")[: self.top]
        row = {
            "classes": [self.names[i] for i in best],
            "probabilities": probabilities[best],
        }
        if "features" in outputs:
            row["features"] = outputs["features"].astype("float32").mean(axis=0)
        return row


if __name__ == "__main__":
    sys.exit(main())
