"""Speed and memory of all variants and of other people's ViViTs, on every backend.

    python benchmarks/run.py
    python benchmarks/run.py --backends torch --sizes tokens64 --rounds 1 --out /tmp/try

Each case runs in a process of its own, in several rounds of all cases: the machine's
mood is shared. Results are written after each case; the same command goes on where a
killed one stopped, and cases that failed are tried again. `docs/performance.md` says
what the numbers mean. Peers that are not installed are left out: `pip install
transformers`, and `pip install --no-deps vit-pytorch einops`.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import tables
from sizes import BACKENDS, DEFAULT_DTYPES, DEFAULT_SIZES, MODELS, SIZES, cases

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER.parent / "examples"))

from common.machine import machine  # noqa: E402

PACKAGES = (
    *("keras", "keras-vivit", "jax", "tensorflow", "tensorflow-cpu", "torch"),
    *("transformers", "vit-pytorch", "onnxruntime", "openvino", "ai-edge-litert"),
)
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "OutOfMemory", "OOM")
BUSY = 0.05  # of the processors, by other programs: more is worth a warning
TIMEOUT = 1200  # seconds for a case; some compilations do not come to an end


def main(arguments=None):
    options = parse(arguments)
    backends = options.backends or [name for name in BACKENDS if find_spec(name)]
    threads = options.threads or processors()
    gpus = {}
    if options.device != "cpu":
        for backend in backends:
            probe = {"kind": "probe", "backend": backend, "threads": threads}
            gpus[backend] = run(probe, "gpu").get("gpu")
    gpu = next(filter(None, gpus.values()), None)
    if options.device == "gpu" and gpu is None:
        raise SystemExit(f"error: no GPU is seen by {', '.join(backends)}.")
    device = options.device or ("gpu" if gpus and all(gpus.values()) else "cpu")
    dtype = options.dtype or DEFAULT_DTYPES[device]
    for name in options.models or MODELS:
        if not MODELS[name].installed:
            print(f"Without {name}: {MODELS[name].package} is not installed.")

    path = options.out / f"speed-{device}-{dtype}.json"
    record = load(path, environment(device, dtype, threads, gpu))
    sizes = options.sizes or DEFAULT_SIZES[device]
    has_half = device == "gpu" or multiplies_bfloat16()
    precisions = ("float32", "bfloat16") if has_half else ("float32",)
    todo = cases(backends, sizes, options.models, device, dtype, precisions)
    for number in range(1, options.rounds + 1):
        complete([{**case, "round": number} for case in todo], record, path)
    tables.write(path)
    print(f"{path.with_suffix('.md')}:\n\n{path.with_suffix('.md').read_text()}")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--backends", nargs="+", choices=BACKENDS, help="default: all installed")
    add("--sizes", nargs="+", choices=(*SIZES, "data"), help="data: the data path")
    add("--models", nargs="+", choices=MODELS, help="default: all that are installed")
    add("--device", choices=("cpu", "gpu"), help="default: gpu if backends see one")
    add("--rounds", type=int, default=3)
    add("--dtype", choices=("float32", "mixed_bfloat16"), help="default: as the device")
    add("--threads", type=int, help="processors to use (default: all)")
    add("--out", type=Path, default=FOLDER / "results", metavar="FOLDER")
    return parser.parse_args(arguments)


def complete(todo, record, path):
    """Measures a round's cases that the record lacks, and saves it after each."""
    done = [identity(row) for row in record["rows"] if "error" not in row]
    missing = [case for case in todo if identity(case) not in done]
    if missing:
        warn_if_busy(record, missing[0]["round"])
    for case in missing:
        threads = record["environment"]["threads"]
        result = run({**case, "threads": threads}, record["environment"]["device"])
        place = f"{case['round']}.{todo.index(case) + 1}/{len(todo)}"
        print(f"{place} {describe(case)}: {brief(result)}", flush=True)
        keep = [r for r in record["rows"] if identity(r) != identity(case)]
        record["rows"] = [*keep, {**case, **result}]
        save(path, record)


def run(case, device):
    """Returns what one case measured, or `{"error": the last line it said}`."""
    environment = {
        **os.environ,
        "GLIBC_TUNABLES": tunables(),
        "KERAS_BACKEND": case["backend"],
        "OMP_NUM_THREADS": str(case["threads"]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "PYTHONPATH": os.pathsep.join(
            [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    if device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, FOLDER / "measure.py", json.dumps(case)]
    options = {"capture_output": True, "text": True, "check": False}
    try:
        process = subprocess.run(command, env=environment, timeout=TIMEOUT, **options)
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {TIMEOUT} s"}
    if process.returncode == 0:
        return json.loads(process.stdout.splitlines()[-1])
    if any(word in process.stderr for word in OUT_OF_MEMORY):
        return {"error": "out of memory"}
    said = process.stderr.strip().splitlines()
    if process.returncode < 0 or not said:  # A signal; 9 is often for memory, too.
        return {"error": f"exit code {process.returncode}"}
    return {"error": said[-1][:200]}


def environment(device, dtype, threads, gpu=None):
    """Returns what results depend on."""
    return {
        "machine": gpu if device == "gpu" else processor(),
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "GLIBC_TUNABLES": tunables(),
        "versions": versions(),
    }


def identity(row):
    return tuple(row.get(key) for key in (*tables.CASE, "round"))


def load(path, environment):
    """Returns the results to go on with; they must be of the same machine."""
    environment = {**environment, "date": datetime.date.today().isoformat()}
    if not path.exists():
        return {"environment": environment, "rows": []}
    record = json.loads(path.read_text())
    before = {**record["environment"], "date": environment["date"]}
    if before != environment:
        changed = [key for key in environment if before.get(key) != environment[key]]
        raise SystemExit(
            f"error: {path} has results of another {' and '.join(changed)}. Give "
            "another folder with `--out`, or delete the file."
        )
    return {**record, "environment": environment}


def save(path, record):
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(unfinished, path)


def warn_if_busy(record, number):
    """Notes what other programs use of the processors before a round."""
    if (share := busy()) is None:
        return
    record.setdefault("busy", {})[str(number)] = round(share, 3)
    if share > BUSY:
        print(
            f"Warning: other programs use {share:.0%} of the processors. "
            "They slow some cases and not others."
        )


def busy(seconds=1.0):
    """Returns the share of the processors in use, `None` where Linux does not tell."""

    def read():
        times = [
            int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
        ]
        return sum(times), times[3] + times[4]  # all of it, and idle or waiting

    try:
        before = read()
        time.sleep(seconds)
        total, idle = (b - a for a, b in zip(before, read(), strict=True))
    except OSError:
        return None
    return 1 - idle / max(total, 1)


def describe(case):
    kind, backend = case["kind"], case["backend"]
    match kind:
        case "gemm":
            return f"{backend}, matrix products, {case['dtype']}"
        case "data":
            return f"{backend}, recipe, {'augmented' if case['augment'] else 'bare'}"
    return f"{backend}, {case['size']}, {tables.label(case)}"


def brief(result):
    if "error" in result:
        return f"failed: {result['error']}"
    units = {"train": "s", "predict": "s", "epoch": "s", "operations": "FLOP/s"}
    return ", ".join(
        f"{k} {result[k]:.3g} {u}" for k, u in units.items() if k in result
    )


def tunables():
    """Returns the user's settings of the allocator, or huge pages, as docs advise."""
    return os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


def processors():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def processor():
    """Returns the processor's name and its number of cores."""
    return f"{machine()}, {os.cpu_count()} cores"


def multiplies_bfloat16():
    """Whether the processor has products of bfloat16; emulated ones take minutes."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) is not None


def versions():
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
