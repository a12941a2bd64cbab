"""Wrong arguments: every call works, or is refused in words.

`cd tests && python -m campaigns.arguments --calls 10000` calls every public constructor
and function with arguments of which some are wrong. A call that is refused must raise a
`ValueError` or `TypeError` that names an argument and says what was received.
"""

import argparse
import collections
import contextlib
import inspect
import json
import pathlib
import re
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import hypothesis
import keras
import numpy as np
from campaigns.output import write
from cases import CASES
from helpers import SMALL, arrays, small_classifier
from hypothesis import strategies as st

import keras_vivit as kv
from keras_vivit.checkpoints import hub

PARITY = pathlib.Path(__file__).parents[1] / "parity" / "transformers"
LIMIT = 60  # seconds of the processor, for a call that hangs
MEMORY = 8 * 2**30  # bytes, for a call that allocates too much


class Subject(NamedTuple):
    """A public name, a function that uses it, and right arguments."""

    name: str
    run: Callable[..., Any]
    arguments: dict[str, Any]
    parameters: tuple[str, ...]


# === What is called ===


def subjects(folder):
    """Returns all subjects; they write into the folder alone."""
    return [*_layers(), *_functions(folder), *_data(folder), *_maps(folder)]


def _layers():
    for case in CASES:
        arguments = {**case.arguments, "inputs": arrays(case.input_shape)}
        if "num_layers" in arguments:
            arguments["num_layers"] = 1
        names = [*inspect.signature(case.layer).parameters, "inputs", "mask"]
        parameters = [*names, "training"]
        yield Subject(case.name, _use(case.layer), arguments, tuple(parameters))


def _use(layer_class):
    def run(inputs, mask=None, training=None, **arguments):
        layer = layer_class(**arguments)
        options = {} if mask is None else {"mask": mask}
        options |= {} if training is None else {"training": training}
        outputs = layer(inputs, **options)
        if not isinstance(layer, keras.Model):
            shape = keras.tree.map_structure(lambda x: tuple(np.shape(x)), inputs)
            declared = layer.compute_output_shape(shape)
            found = keras.tree.map_structure(lambda x: tuple(x.shape), outputs)
            assert found == declared, f"shape {found}, declared {declared}"
        config = json.dumps(keras.saving.serialize_keras_object(layer))
        keras.saving.deserialize_keras_object(json.loads(config))

    return run


def _subject(function, name=None, **arguments):
    parameters = inspect.signature(function).parameters
    name = name or f"{function.__module__.partition('.')[2]}.{function.__name__}"
    return Subject(name, function, arguments, tuple(parameters))


def _method(make, method, class_name, **arguments):
    """A method of an object that is made anew for each call."""

    def run(*args, **options):
        return getattr(make(), method)(*args, **options)

    parameters = inspect.signature(getattr(make(), method)).parameters
    return Subject(f"{class_name}.{method}", run, arguments, tuple(parameters))


def _functions(folder):
    model = small_classifier(num_layers=1)
    video = arrays((1, 4, 16, 16, 1))
    kernel = np.ones((2, 2, 1, 3), "float32")
    preset = folder / "preset"
    model.save_to_preset(preset)
    for cls in (kv.ViViTClassifier, kv.ViViTBackbone):
        sizes = {**SMALL, "num_layers": 1, "video_shape": (4, 16, 16, 1)}
        overrides = tuple(inspect.signature(cls).parameters)
        sizes["load_weights"] = False
        for source, more in ((preset, {}), ("vivit_organmnist3d", sizes)):
            subject = _subject(
                cls.from_preset, f"{cls.__name__}.from_preset", source=source, **more
            )
            yield subject._replace(parameters=subject.parameters + overrides)
    subject = _subject(
        kv.ViViTBackbone.from_image_preset,
        "ViViTBackbone.from_image_preset",
        source=PARITY / "vit",
        video_shape=(4, 16, 16, 1),
    )
    yield subject._replace(parameters=subject.parameters + overrides)
    yield _subject(kv.resize_position_table, table=np.ones((2, 3, 4)), grid=(4, 2))
    token = small_classifier(num_layers=1, pooling="token")
    yield _subject(kv.save_to_transformers, model=token, directory=folder / "hf")
    yield _subject(kv.upload_preset, uri="hf://a/b", directory=preset)
    yield _subject(kv.initializers.central_frame, kernel=kernel, frames=2)
    yield _subject(kv.initializers.inflate, kernel=kernel, frames=2)
    yield _subject(kv.initializers.resample, kernel=kernel[None], frames=2)
    yield _method(lambda: model, "save_to_preset", "Classifier", directory=preset)
    yield _method(lambda: model.backbone, "features", "Backbone", videos=video)
    yield _method(
        lambda: small_classifier(num_layers=1), "enable_lora", "Classifier", rank=2
    )
    named = small_classifier(num_layers=1, class_names=["a", "b", "c"])
    probabilities = np.ones((2, 3)) / 3
    yield _method(
        lambda: named, "decode_predictions", "Classifier", probabilities=probabilities
    )
    if keras.backend.backend() == "jax":
        mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"), ["cpu:0"])
        yield _subject(kv.layout_map, device_mesh=mesh)


def _data(folder):
    data, model = kv.data, small_classifier(num_layers=1)
    frames = np.zeros((6, 20, 24, 1), "uint8")
    for label in "ab":
        (folder / "scans" / label).mkdir(parents=True)
        np.save(folder / "scans" / label / "x.npy", frames[..., 0])
    scan = folder / "scans" / "a" / "x.npy"
    yield _subject(data.sample_clips, length=30, num_frames=4, stride=2, num_clips=2)
    yield _subject(data.three_crops, video=frames, size=(8, 8))
    yield _subject(data.read_volume, path=scan, shape=(4, 4, 4), window=(0, 1))
    yield _subject(data.volume_info, path=scan)
    yield _subject(
        data.VideoFolder,
        folder=folder / "scans",
        video_shape=(4, 16, 16, 1),
        workers=1,
        batch_size=1,
    )
    yield _subject(data.predict_views, model=model, source=frames, num_crops=1)
    yield _subject(data.predict_over_time, model=model, source=frames, step=2)
    with contextlib.suppress(ImportError):
        from helpers import write_video

        clip = folder / "clip.mov"
        write_video(clip, np.zeros((4, 16, 16, 3), "uint8"))
        yield _subject(data.read_video, path=clip, indices=[0, 2], size=8, crop=(8, 8))
        yield _subject(data.video_info, path=clip)


def _maps(folder):
    maps, model = kv.visualization, small_classifier(num_layers=1)
    videos, heat = arrays((1, 4, 16, 16, 1)), np.ones((1, 2, 2, 2))
    common = {"model": model, "videos": videos}
    yield _subject(maps.attention_maps, **common)
    yield _subject(maps.attention_rollout, **common)
    yield _subject(maps.relevance, **common, class_index=1)
    yield _subject(maps.grad_cam, **common, class_index=1)
    yield _subject(maps.with_outputs, model=model, layer_names=["encoder_block_0"])
    yield _subject(maps.with_rollout, model=model)
    yield _subject(maps.overlay, videos=videos, maps=heat)
    picture = np.zeros((2, 8, 8, 3), "uint8")
    yield _subject(maps.save_gif, path=folder / "x.gif", frames=picture)


# === Wrong arguments ===

HUGE = (2**31, 2**31 + 1, 2**40, 2**63, 2**70, -(2**40))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from(HUGE),
    st.floats(-2, 2),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e300, 1e-320]),
    st.text(max_size=3),
    st.sampled_from(["mean", "same", "float16", "all", "softmax", "/etc/passwd", "."]),
)
OTHERS = st.sampled_from(
    [
        *(np.int32(2), np.int64(-1), np.uint8(3), np.float32(0.5), np.float64("nan")),
        *(np.bool_(True), np.str_("x"), np.zeros(()), np.zeros(3), np.ones((2, 3))),
        *(np.array([]), np.array(["a"]), np.array([None]), np.ones((2, 2), complex)),
        *(b"x", 1j, Fraction(1, 2), Decimal("0.5"), range(3), object(), lambda x: x),
        *(int, np, {1, 2}, {}, {"a": 1}, {"class_name": "x"}, [], (), [[]], Ellipsis),
        *(keras.Input((2,)), slice(2), pathlib.Path("x")),
    ]
)
LISTS = st.lists(SCALARS, max_size=5)
VALUES = st.one_of(SCALARS, OTHERS, LISTS, LISTS.map(tuple))
INPUT_SHAPES = st.lists(st.integers(0, 6), max_size=6).map(tuple)
DTYPES = st.sampled_from(["float32", "float16", "float64", "uint8", "int64", "bool"])
ARRAYS = st.builds(np.ones, INPUT_SHAPES, DTYPES)


@st.composite
def _changes(draw, subject):
    """Draws up to three changed arguments; rarely one that does not exist."""
    changes = {}
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        name = draw(st.sampled_from([n for n in subject.parameters if n != "kwargs"]))
        right = subject.arguments.get(name)
        if right is not None and draw(st.integers(0, 2)) == 0:
            changes[name] = draw(_also_right(right))
        elif name in ("inputs", "mask", "videos", "video", "table", "kernel", "maps"):
            changes[name] = draw(st.one_of(VALUES, ARRAYS, _wrong_shape(right)))
        elif isinstance(right, list | tuple) and right:
            changes[name] = draw(st.one_of(VALUES, _wrong_element(right)))
        else:
            changes[name] = draw(VALUES)
    if draw(st.integers(0, 19)) == 0:
        changes[draw(st.sampled_from(["num_hedas", "kind", "x"]))] = 1
    return changes


def _also_right(right):
    """The same value, or one beside it, as objects of other types."""
    if isinstance(right, bool | np.ndarray | str | dict):
        return st.just(right)
    if isinstance(right, int):
        types = st.sampled_from([int, np.int32, np.uint8, np.int64])
        return st.builds(lambda kind, n: kind(right + n), types, st.integers(0, 2))
    if isinstance(right, float):
        return st.sampled_from([right, np.float32(right), np.float64(right / 2)])
    if isinstance(right, list | tuple) and all(isinstance(x, int) for x in right):
        kinds = st.sampled_from([list, tuple])
        return st.builds(lambda kind: kind(map(np.int64, right)), kinds)
    return st.just(right)


def _wrong_element(right):
    place = st.integers(0, len(right) - 1)
    return st.builds(
        lambda i, x: type(right)([*right[:i], x, *right[i + 1 :]]), place, SCALARS
    )


def _wrong_shape(right):
    """Arrays whose axes have another size, or that are dictionaries with such ones."""
    if isinstance(right, dict):
        names = st.sampled_from(sorted(right))
        return st.builds(lambda n, x: {**right, n: x}, names, st.one_of(ARRAYS, VALUES))
    shape = np.shape(right)
    if not shape:
        return ARRAYS
    place, size = st.integers(0, len(shape) - 1), st.integers(0, 9)
    return st.builds(
        lambda i, n, dtype: np.ones((*shape[:i], n, *shape[i + 1 :]), dtype),
        *(place, size, DTYPES),
    )


# === Outcomes ===

# Keras' own words for inputs that are not those of a model or a built layer.
KERAS = (
    r"Input 0 .*incompatible with the layer: expected .*(found|received)",
    r"expects \d+ (named )?input.*but (it received|received)",
    r"Invalid input shape for input .* Expected shape .*",
    "Expected `shape` to be .* for direct tensor as initializer. Received shape",
    # Of a checkpoint, which names its tensors.
    "The checkpoint and the model must hold the same tensors",
    r"must have the shape of .* Received: \(",
)


def outcome(subject, arguments):
    """Returns "works", "refused", or in words what is wrong with a call."""

    def stop(*_):
        raise TimeoutError(f"no answer in {LIMIT} s")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subject.run(**arguments)
    except (TypeError, ValueError, ImportError) as error:
        if is_worded(error, subject, arguments):
            return "refused"
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            return "refused"  # The system's own words, with the file.
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    return "works"


def is_worded(error, subject, arguments):
    """Whether an error names an argument, and what was received."""
    text, names = str(error), {*subject.parameters, *arguments}
    if any(f"argument '{name}'" in text for name in names):
        return True  # Python's own, of an argument that does not exist
    if any(re.search(words, text, re.DOTALL) for words in KERAS):
        return True
    # A `source` that is a path is named as in the function that reads the file.
    named = any(f"`{name}" in text for name in (*names, "embed_dim", "path"))
    return named and ("Received" in text or "unexpected argument" in text)


@contextlib.contextmanager
def sandbox():
    """A folder to write into, which is the working folder; the Hub is out of reach."""

    def refuse(*_):
        raise ImportError("`uri` is not uploaded in tests. Received: a right call")

    folder, package = pathlib.Path(tempfile.mkdtemp()), hub.optional_package
    hub.optional_package = refuse
    try:
        with contextlib.chdir(folder):
            yield folder
    finally:
        hub.optional_package = package
        shutil.rmtree(folder)


def campaign(calls, seed=0, only=None):
    """Makes calls, and returns their counts and the faults."""
    counts, faults = collections.Counter(), []
    seconds = collections.Counter()
    with sandbox() as folder:
        chosen = [s for s in subjects(folder) if only is None or only in s.name]
        each = -(-calls // len(chosen))
        for number, subject in enumerate(chosen):

            def call(changes):
                begin = time.perf_counter()
                found = outcome(subject, {**subject.arguments, **changes})  # noqa: B023
                seconds[subject.name] += time.perf_counter() - begin  # noqa: B023
                counts[found if found in ("works", "refused") else "faults"] += 1
                if found not in ("works", "refused"):
                    text = {"changes": repr(changes), "is": found[:500]}
                    faults.append({"call": subject.name, **text})  # noqa: B023

            settings = hypothesis.settings(
                max_examples=each,
                database=None,
                deadline=None,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            drawn = hypothesis.given(_changes(subject))(call)
            hypothesis.seed(seed + number)(settings(drawn))()
    return {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "seed": seed,
        "subjects": len(chosen),
        "calls": sum(counts.values()),
        **{name: counts[name] for name in ("works", "refused", "faults")},
        "slowest": seconds.most_common(5),
        "found": faults,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a part of the names that are called")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    keras.utils.set_random_seed(0)
    result = campaign(arguments.calls, arguments.seed, arguments.only)
    write(result, arguments.out)


if __name__ == "__main__":
    main()
