"""Predicts the classes of many videos or volumes with Ray Data, into Parquet files.

    python examples/video/predict_many.py FOLDER --preset PRESET --out DIR
    python examples/video/predict_many.py LIST --preset PRESET --out DIR --address auto

FOLDER is read with the folders in it; LIST has one path a line. DIR/predictions gets a
row for each file: `path`, `classes` and `probabilities` (the highest first), `features`
if asked for, and `error`, which says why a file cannot be read. After a kill the same
command predicts the files that are left. Without `--address`, Ray starts on this
machine; the nodes of a cluster need this package, the files and DIR at the same paths.
"""

import argparse
import contextlib
import os
import pickle
import sys
import time
from importlib.util import find_spec
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

OBJECT_STORE = 2**29  # bytes; Ray's default is 30 % of the memory.
BATCH = 8  # files that a model's process holds at once


def main(arguments=None):
    return exit_status(run, parse(arguments))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    number = {"type": positive, "metavar": "N"}
    add("source", type=Path, metavar="FOLDER_OR_LIST")
    add("--preset", required=True, help="what `from_preset` loads")
    add("--out", type=Path, required=True, metavar="DIR")
    add("--address", help="of a Ray cluster (default: start Ray here)")
    add("--workers", **number, help="models (default: one for each GPU, or CPU)")
    add("--batch-size", **number, default=16, help="views at once")
    add("--part", **number, default=64, help="files of a task: what a kill loses")
    add("--clips", **number, default=4, help="to average over")
    add("--crops", type=int, choices=(1, 3), default=1, help="of each clip")
    add("--top", **number, default=5, help="classes to keep")
    add("--features", action="store_true", help="keep what the head is given")
    return parser.parse_args(arguments)


def run(options):
    if not find_spec("ray"):
        raise InputError(
            '`ray` must be installed: pip install ".[ray]". Received: none.'
        )
    backend = choose_backend()

    # Keras starts a backend when it is imported: only now.
    from keras_vivit.data import views

    files = files_of(options.source)
    if os.path.exists(options.preset):
        options.preset = os.path.abspath(options.preset)
    names = ("preset", "clips", "crops", "top", "features")
    settings = {name: getattr(options, name) for name in names}
    with input_errors():
        layout = views.layout_of(load(options.preset))
    folder = options.out / "predictions"
    with run_folder.alone(options.out):
        if (options.out / "run.json").exists():
            run_folder.check_unchanged(options.out, settings)
        else:
            run_folder.start(options.out, settings)
        done = finish(folder)
        files = [path for path in files if path not in done]
        print(f"{len(done)} files are done, {len(files)} are left.", flush=True)
        if files:
            with ray_of(options.address, options.workers, backend):
                begin = time.perf_counter()
                # No earlier run had this name; readers skip names that begin with `_`.
                place = folder.absolute() / f"_{len(list(folder.glob('*'))):04d}"
                place.mkdir(parents=True)
                rows = predictions(files, layout, settings, options)
                # A task that is killed and repeated writes the same file again.
                rows.write_parquet(str(place), try_create_dir=False)
                seconds = time.perf_counter() - begin
            finish(folder)
            print(f"{len(files)} files in {seconds:.1f} s: {folder}")


# === Files ===


def files_of(source):
    """Returns the absolute paths of a folder or a list, without repetitions."""
    from keras_vivit.data import listing

    if source.is_dir():
        paths = map(os.fsencode, listing.walk_clips(source))
        # A name that no column of texts can hold gets a row with an error.
        paths = [path.decode(errors="backslashreplace") for path in paths]
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


def finish(folder):
    """Renames the folder of the last run; returns the files that have a row.

    A process that still writes for a killed run cannot open a file in the renamed
    folder. A file without the end that Parquet writes last is deleted.
    """
    import pyarrow
    from pyarrow import parquet

    for place in folder.glob("_*"):
        place.rename(folder / place.name[1:])
    done = set()
    for part in folder.glob("*/*.parquet"):
        try:
            done.update(parquet.read_table(part, columns=["path"])["path"].to_pylist())
        except pyarrow.ArrowInvalid:
            part.unlink()
    return done


# === Ray ===


@contextlib.contextmanager
def ray_of(address, workers, backend):
    """Connects with a cluster, or starts Ray, which ends with this process."""
    import ray

    limits = {}
    if not address:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # One CPU more than models: it writes while they predict.
        limits["num_cpus"] = (workers or os.cpu_count()) + 1
        limits |= {"object_store_memory": OBJECT_STORE, "include_dashboard": False}
    environment = {"env_vars": {"KERAS_BACKEND": backend}}
    try:
        ray.init(
            address or "local", runtime_env=environment, log_to_driver=False, **limits
        )
        ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
        yield
    finally:
        ray.shutdown()


def predictions(files, layout, settings, options):
    """Returns a dataset of rows, see the top of this file; nothing is computed yet."""
    import ray

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = options.workers or gpus or max(1, int(resources["CPU"]) - 1)
    part = min(options.part, -(-len(files) // workers))
    # Without GPUs, Ray fuses both steps: a CPU reads a file, and then predicts it.
    return (
        ray.data.from_items(
            [{"path": path} for path in files],
            override_num_blocks=-(-len(files) // part),
        )
        .map(read, fn_args=(layout, settings))
        .map_batches(
            Predictor,
            fn_constructor_args=(settings, options.batch_size),
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=min(1, gpus / workers) or None,
        )
    )


def load(preset):
    from keras_vivit import ViViTClassifier

    model = ViViTClassifier.from_preset(preset)
    if not isinstance(model.num_classes, int):
        raise ValueError(
            f"`--preset` must have one head. Received: {', '.join(model.num_classes)}"
        )
    return model


def read(row, layout, settings):
    """Adds the views of a file, or why it cannot be read."""
    from keras_vivit.data import surveying, views

    sizes = settings["clips"], settings["crops"]
    try:
        array = views.read_views(row["path"], layout, *sizes, surveying.survey)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        return {**row, "views": b"", "error": reason}
    # As bytes: views of files differ in number and type, columns must not.
    return {**row, "views": pickle.dumps(array), "error": ""}


class Predictor:
    """Holds a model, and turns the views of files into rows."""

    def __init__(self, settings, batch_size):
        import keras
        import pyarrow

        from keras_vivit.data import views

        model = load(settings["preset"])
        self.names = model.class_names or list(map(str, range(model.num_classes)))
        self.top, self.batch_size = settings["top"], batch_size
        self.merge, self.activation = views.merge, views.activation_of(model)
        outputs = {"probabilities": model.output}
        if settings["features"]:
            outputs["features"] = model.get_layer("head").input
        self.model = keras.Model(model.input, outputs)
        text, numbers = pyarrow.string(), pyarrow.list_(pyarrow.float32())
        types = {"path": text, "classes": pyarrow.list_(text), "probabilities": numbers}
        self.schema = pyarrow.schema({**types, "features": numbers, "error": text})

    def __call__(self, batch):
        import pyarrow

        names = ("path", "views", "error")
        rows = [
            {"path": path, **({"error": error} if error else self.predict(views))}
            for path, views, error in zip(*map(batch.get, names), strict=True)
        ]
        return pyarrow.Table.from_pylist(rows, self.schema)

    def predict(self, views):
        outputs = self.model.predict(
            pickle.loads(views), batch_size=self.batch_size, verbose=0
        )
        try:
            values = self.merge(outputs["probabilities"], self.activation, "logits")
        except ValueError as error:  # Of pixels that are not finite.
            return {"error": str(error)}
        best = (-values).argsort(kind="stable")[: self.top]
        row = {"classes": [self.names[i] for i in best], "probabilities": values[best]}
        if "features" in outputs:
            row["features"] = outputs["features"].astype("float32").mean(axis=0)
        return row


if __name__ == "__main__":
    sys.exit(main())
