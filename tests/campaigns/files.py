"""Wrong files: each is read as another right one, or refused in words.

`cd tests && python -m campaigns.files --files 10000` reads that many mutations of all
formats. A refusal must be a `ValueError` with the file's name, within a second of the
processor beyond what the right file takes, and 200 MB; nothing may be executed.
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from campaigns.output import write
from helpers import flat, moving_video, small_classifier, write_video
from small_volumes import affine_of, voxels, write_dicom, write_nifti, write_series

import keras_vivit as kv

PARITY = pathlib.Path(__file__).parents[1] / "parity"
SECONDS, BYTES = 1.0, 200 * 2**20


class Format(NamedTuple):
    """How a right file or folder is written, and how it is read."""

    write: Callable[[pathlib.Path], Any]
    read: Callable[[pathlib.Path], Any]


# === Formats ===


def _checkpoint(path):
    return kv.ViViTClassifier.from_preset(path).weights


def _scenic(path):
    return kv.ViViTClassifier.from_preset(path, video_shape=(6, 8, 40, 1)).weights


def _parity(*parts):
    source = PARITY.joinpath(*parts)
    copy = shutil.copytree if source.is_dir() else shutil.copyfile
    return lambda path: copy(source, path)


def _pytorch(zipped):
    def write(path):
        import safetensors.numpy
        import torch

        shutil.copytree(PARITY / "transformers" / "vivit", path)
        arrays = safetensors.numpy.load_file(path / "model.safetensors")
        (path / "model.safetensors").unlink()
        state = {name: torch.from_numpy(x) for name, x in arrays.items()}
        target = path / "pytorch_model.bin"
        torch.save(state, target, _use_new_zipfile_serialization=zipped)

    return write


def _clips(path):
    path.mkdir()
    for name in "ab":
        np.save(path / f"{name}.npy", voxels())
    (path / "clips.csv").write_text("file,label,split\na.npy,x,train\nb.npy,y,train\n")


def _folder(path):
    shape = (4, 5, 6, 1)
    return kv.data.VideoFolder(path, shape, batch_size=2, workers=1)[0][0]


FORMATS = {
    "Scenic": Format(_parity("scenic", "odd_m1_token.msgpack"), _scenic),
    "safetensors": Format(_parity("transformers", "vivit"), _checkpoint),
    "safetensors in shards": Format(
        _parity("transformers", "vivit_sharded"), _checkpoint
    ),
    "PyTorch": Format(_pytorch(True), _checkpoint),
    "PyTorch before 1.6": Format(_pytorch(False), _checkpoint),
    "preset folder (HDF5)": Format(
        lambda path: small_classifier(num_layers=1).save_to_preset(path), _checkpoint
    ),
    "video": Format(
        lambda path: write_video(path.with_suffix(".mov"), moving_video()).rename(path),
        kv.data.read_video,
    ),
    "NIfTI": Format(
        lambda path: write_nifti(path.with_suffix(".nii"), voxels()).rename(path),
        lambda path: _as(path, ".nii"),
    ),
    "NIfTI, gzip": Format(
        lambda path: write_nifti(path.with_suffix(".nii.gz"), voxels()).rename(path),
        lambda path: _as(path, ".nii.gz"),
    ),
    "DICOM": Format(lambda path: write_dicom(path, voxels(5, 6)), kv.data.read_volume),
    "DICOM series": Format(
        lambda path: write_series(path, voxels(), affine_of("SPL")),
        kv.data.read_volume,
    ),
    "npy": Format(lambda path: np.save(path.open("wb"), voxels()), kv.data.read_volume),
    "npz": Format(
        lambda path: np.savez_compressed(path.open("wb"), voxels()),
        kv.data.read_volume,
    ),
    "CSV list": Format(_clips, _folder),
}


def _as(path, suffix):
    """Reads a file under a name that nibabel knows."""
    named = path.with_name(f"named{suffix}")
    shutil.copyfile(path, named)
    try:
        return kv.data.read_volume(named)
    except ValueError as error:
        raise ValueError(str(error).replace(str(named), str(path))) from error
    finally:
        named.unlink()


# === Mutations ===


class Harm:
    """A pickle that leaves a trace when it is loaded."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("trace"),)


def mutate(path, rng):
    """Changes a file, or one or two files of a folder, and says how."""
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        files = [p for p in files if p.suffix != ".md" and p.name != "metadata.json"]
    file = files[rng.integers(len(files))]
    names = list(MUTATIONS) if len(files) > 1 else list(MUTATIONS)[:-2]
    name = names[rng.integers(len(names))]
    change = MUTATIONS[name]
    if name in ("swapped", "link"):
        change(file, files[rng.integers(len(files))], rng)
    else:
        file.write_bytes(change(bytearray(file.read_bytes()), rng))
    return f"{name} of {file.name}"


def _truncate(content, rng):
    return content[: rng.integers(len(content) + 1)]


def _truncate_near_a_boundary(content, rng):
    size = 2 ** int(rng.integers(0, max(len(content).bit_length(), 1)))
    return content[: max(size + int(rng.integers(-1, 2)), 0)]


def _flip_bits(content, rng):
    for _ in range(rng.integers(1, 9)):
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return content


def _flip_bits_in_the_header(content, rng):
    for _ in range(rng.integers(1, 5)):
        content[rng.integers(min(len(content), 512))] ^= 1 << int(rng.integers(8))
    return content


def _overwrite(content, rng):
    start, size = rng.integers(len(content)), int(rng.integers(1, 64))
    value = [rng.bytes(size), b"\0" * size, b"\xff" * size][rng.integers(3)]
    content[start : start + size] = value
    return content


def _repeat_or_cut(content, rng):
    start, size = rng.integers(len(content)), int(rng.integers(1, 256))
    piece = content[start : start + size]
    content[start : start + size] = piece * int(rng.choice([0, 2, 9]))
    return content


def _absurd_number(content, rng):
    """Replaces a digit of a text, or four or eight bytes, by a huge number."""
    places = [i for i, c in enumerate(content[:4096]) if chr(c).isdigit()]
    numbers = [b"-1", b"0", b"99999999999999999999", b"1e309", b'"x"', b"null", b"[]"]
    if places and rng.integers(2):
        place = places[rng.integers(len(places))]
        content[place : place + 1] = numbers[rng.integers(len(numbers))]
        return content
    values = (2**31 - 1, -1, 2**40, 2**62, 0)
    packed = struct.pack("<q", values[rng.integers(len(values))])
    start, size = rng.integers(min(len(content), 512)), (4, 8)[rng.integers(2)]
    content[start : start + size] = packed[:size]
    return content


def _other_content(content, rng):
    """A file of another kind: a pickle, a bomb, a text, nothing."""
    zeros = b"\0" * 2**26
    kind = rng.integers(6)
    if kind == 0:
        return pickle.dumps({"weight": Harm()})
    if kind == 1:
        return gzip.compress(content + zeros, 1)
    if kind == 2:
        return _npz_of(_npy_header((2**33,)) + zeros)
    if kind == 3:
        return _npz_of(_npy_header((1,), "|O") + pickle.dumps([Harm()]))
    if kind == 4:
        return _npy_header((1,), "|O") + pickle.dumps(np.array([Harm()]))
    return [b"", b"text", b"{" * 10_000, b"\0" * 100, rng.bytes(300)][rng.integers(5)]


def _npy_header(shape, dtype="<f4"):
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def _npz_of(content):
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(
            file, "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as zipped:
            zipped.writestr("arr_0.npy", content)
        file.seek(0)
        return file.read()


def _swap(file, other, rng):
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _link(file, other, rng):
    target = ["/etc/passwd", "/dev/zero", str(other), "/nothing"][rng.integers(4)]
    file.unlink()
    file.symlink_to(target)


MUTATIONS = {
    "truncation": _truncate,
    "truncation at a power of two": _truncate_near_a_boundary,
    "bit flips": _flip_bits,
    "bit flips in the header": _flip_bits_in_the_header,
    "bytes overwritten": _overwrite,
    "bytes repeated or cut": _repeat_or_cut,
    "absurd number": _absurd_number,
    "other content": _other_content,
    "swapped": _swap,
    "link": _link,
}


# === Outcomes ===

FORBIDDEN = ("os.system", "os.exec", "subprocess.Popen", "socket.connect")
_events: list = []


def _audit(event, arguments):
    # `VideoFolder` decodes in processes of its own.
    own = event == "subprocess.Popen" and "decoding.py" in str(arguments)
    if event in FORBIDDEN and not own:
        _events.append(event)


def peak():
    """Returns the largest resident size since the last reset, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    return 0


def reset_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return peak()


def outcome(read, path, seconds):
    """Returns "read", "refused", or in words what is wrong."""
    _events.clear()
    memory, begin = reset_peak(), time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
        found = "read"
    except ValueError as error:
        worded = "must" in str(error) or "Received" in str(error)
        found = "refused" if worded else f"ValueError: {error}"
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    spent, taken = time.process_time() - begin, peak() - memory
    if _events or pathlib.Path("trace").exists():
        return f"executed: {_events}"
    if spent > seconds + SECONDS:
        return f"{spent:.1f} s"
    if taken > BYTES:
        return f"{taken / 2**20:.0f} MB"
    return found


def run(name, numbers, seed, folder):
    """Reads mutations of one format; yields their number, change and outcome."""
    form, right, path = FORMATS[name], folder / "right", folder / "wrong"
    form.write(right)
    begin = time.process_time()
    before = flat(form.read(right))
    seconds = time.process_time() - begin
    for number in numbers:
        rng = np.random.default_rng((seed, number, *name.encode()))
        (shutil.copytree if right.is_dir() else shutil.copyfile)(right, path)
        what = mutate(path, rng)
        yield number, what, None  # Told first: a crash leaves its cause.
        yield number, what, outcome(form.read, path, seconds)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for old, new in zip(before, flat(form.read(right)), strict=True):
        np.testing.assert_array_equal(old, new)  # No refusal left anything behind.


def worker(name, start, stop, seed):
    """Prints the outcomes of one format, a JSON list each line."""
    sys.addaudithook(_audit)
    resource.setrlimit(resource.RLIMIT_DATA, (2**33, 2**33))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for row in run(name, range(start, stop), seed, pathlib.Path(folder)):
            print(json.dumps(row), flush=True)


def campaign(files, seed=0, names=FORMATS):
    """Runs all formats, each in a process that is started anew after a crash."""
    results = {}
    for name in names:
        each, counts, faults = -(-files // len(names)), collections.Counter(), []
        start = 0
        while start < each:
            command = [sys.executable, "-m", "campaigns.files", "--worker", name]
            command += [str(start), str(each), str(seed)]
            done = subprocess.run(command, capture_output=True, text=True)
            last = [start - 1, "the right file", "not read"]
            for number, what, found in map(json.loads, done.stdout.splitlines()):
                last = [number, what, found]
                if found is None:
                    continue
                counts[found if found in ("read", "refused") else "faults"] += 1
                if found not in ("read", "refused"):
                    faults.append({"number": number, "what": what, "is": found[:300]})
            start = last[0] + 1
            if done.returncode:
                counts["faults"] += 1
                reason = f"exit code {done.returncode}: {done.stderr[-300:]}"
                faults.append({"number": last[0], "what": last[1], "is": reason})
                start = max(start, last[0] + 1)
                if last[0] < 0 or start >= each:
                    break
        results[name] = {**counts, "found": faults}
        print(name, dict(counts), file=sys.stderr, flush=True)
    return {"keras": keras.__version__, "seed": seed, "formats": results}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file")
    arguments = parser.parse_args()
    if arguments.worker:
        name, *numbers = arguments.worker
        return worker(name, *map(int, numbers))
    names = [arguments.format] if arguments.format else FORMATS
    write(campaign(arguments.files, arguments.seed, names), arguments.out)


if __name__ == "__main__":
    main()
