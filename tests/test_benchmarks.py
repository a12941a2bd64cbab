"""The benchmarks: arithmetic on paper, peers of our size, tables, tiny cases."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path

import keras
import pytest

from keras_vivit import fast

FOLDER = Path(__file__).parents[1] / "benchmarks"
if not FOLDER.exists():
    pytest.skip("a source distribution has no benchmarks", allow_module_level=True)
sys.path.insert(0, str(FOLDER))  # as Python does for a script in that folder

import flops  # noqa: E402
import measure  # noqa: E402
import paths  # noqa: E402
import peers  # noqa: E402
import run  # noqa: E402
import tables  # noqa: E402
from devices import Device  # noqa: E402
from sizes import BACKENDS, DEFAULT_SIZES, MODELS, SIZES, Size, cases, tokens  # noqa: E402

BACKEND = keras.backend.backend()
OTHER_BACKEND = "jax" if BACKEND == "torch" else "torch"
CPU = {"backend": BACKEND, "device": "cpu", "dtype": "float32", "compiled": False}
# One token is left over along each axis: 2 x 2 x 2 tokens.
TINY = Size((5, 9, 9, 1), (2, 4, 4), 12, 2, 2, 20, 3, 5, 1)
PEERS = [
    pytest.param(name, marks=[] if model.package == "keras" else pytest.mark.slow)
    for name, model in MODELS.items()
    if model.package
]


ignore_dropped_voxels = pytest.mark.filterwarnings("ignore:.*ignore:UserWarning")


def skip_unless_it_runs_here(name):
    model = MODELS[name]
    if BACKEND not in model.backends:
        pytest.skip(f"{name} needs the backend {model.backends[0]}")
    if not model.installed:
        pytest.skip(f"{name} needs the package {model.package}, which is not installed")
    if model.package == "vit_pytorch":
        pytest.importorskip("einops")


def build(name, size):
    case = {**CPU, "model": name}
    return measure.build(case, size, *measure.inputs(size), Device(case))


# === Arithmetic ===


def test_multiply_adds_are_those_counted_by_hand():
    # 8 tokens: 2 frames of 4. Width 12, hidden 20, tubelets of 32 pixels, 5 classes.
    embedding, head = 8 * 32 * 12, 12 * 5
    projections, mlp = 8 * 4 * 144, 8 * 2 * 240
    hand = {
        1: 2 * (projections + 2 * 8 * 8 * 12 + mlp),
        2: 2 * (projections + 2 * 8 * 4 * 12 + mlp)
        + (2 * 4 * 144 + 2 * 2 * 2 * 12 + 2 * 2 * 240),
        3: 2 * (2 * projections + 2 * 8 * 4 * 12 + 2 * 8 * 2 * 12 + mlp),
        4: 2 * (projections + 8 * 4 * 12 + 8 * 2 * 12 + mlp),
    }
    for variant, blocks in hand.items():
        found = flops.forward_multiply_adds(TINY, variant)
        assert found == embedding + blocks + head


def test_class_token_is_one_token_more():
    joint = 2 * (9 * 4 * 144 + 2 * 9 * 9 * 12 + 9 * 2 * 240)
    found = flops.forward_multiply_adds(TINY, 1, class_token=True)
    assert found == 8 * 32 * 12 + joint + 12 * 5


@pytest.mark.parametrize(
    ("variant", "class_token", "gflops"),
    [(1, True, 455.2), (2, True, 284.4), (3, False, 372.3), (4, False, 277.1)],
)
def test_multiply_adds_are_nearly_the_papers_gflops(variant, class_token, gflops):
    found = flops.forward_multiply_adds(SIZES["b16x2"], variant, class_token) / 1e9
    assert 0.99 * gflops < found < gflops


def test_training_takes_three_times_the_operations():
    prediction, training = (
        flops.operations(TINY, MODELS["vivit3"], training) for training in (False, True)
    )
    assert prediction == 2 * 3 * flops.forward_multiply_adds(TINY, 3)
    assert training == 3 * prediction


def test_sizes_have_the_tokens_that_they_are_named_after():
    for name, size in SIZES.items():
        named = re.fullmatch(r"(?:tokens|growth)(\d+)", name)
        assert math.prod(size.grid) == int(named[1] if named else 3136)


# === Peers ===


@ignore_dropped_voxels
@pytest.mark.parametrize("size", ["tokens27", "tokens64"])
@pytest.mark.parametrize("name", PEERS)
def test_peer_has_our_tokens_and_nearly_our_parameters(name, size):
    skip_unless_it_runs_here(name)
    size, model = SIZES[size], MODELS[name]
    ours = f"vivit{model.variant}" + ("-token" if model.class_token else "")
    assert MODELS[ours][:2] == model[:2]
    theirs = build(name, size).parameters
    assert theirs == pytest.approx(build(ours, size).parameters, rel=0.01)
    if model.package == "keras":
        tables_of_positions = [
            weight.shape
            for weight in peers.keras_example(size).weights
            if weight.name == "table"
        ]
    else:
        module, _ = peers.torch_peer(name, size)
        tables_of_positions = [
            weight.shape for key, weight in module.named_parameters() if "pos" in key
        ]
    (shape,) = tables_of_positions
    assert math.prod(shape[:-1]) == tokens(size, model)


@ignore_dropped_voxels
@pytest.mark.parametrize("name", ["vivit1", *PEERS])
def test_tiny_case_is_measured(name, monkeypatch):
    skip_unless_it_runs_here(name)
    monkeypatch.setitem(SIZES, "tiny", dataclasses.replace(TINY, num_layers=1))
    case = {**CPU, "kind": "model", "model": name, "size": "tiny"}
    result = json.loads(json.dumps(measure.measure(case)))
    assert 0 < result["train_best"] <= result["train"]
    assert 0 < result["predict_best"] <= result["predict"]
    assert result["first_step"] > 0
    assert result["parameters"] > 0
    assert result["memory"] >= 0
    assert set(tables.COMPARED) <= set(result)


def test_peak_of_matrix_products_is_measured():
    assert measure.measure_gemm({**CPU, "dtype": "bfloat16"}, side=64)["operations"] > 0


# === Cases and tables ===


def test_cases_differ_and_peers_run_on_their_framework():
    found = cases(
        ("jax", "torch"),
        DEFAULT_SIZES["gpu"],
        None,
        "gpu",
        "mixed_bfloat16",
        ("float32", "bfloat16"),
    )
    assert len({run.identity(row) for row in found}) == len(found)
    models = [row for row in found if row["kind"] == "model"]
    for row in models:
        assert row["backend"] in MODELS[row["model"]].backends
    assert {row["kind"] for row in found} == {"gemm", "model", "data"}


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", {"tensorflow"}), ("gpu", {"torch"})]
)
def test_compiled_cases_stand_beside_those_that_keras_does_not_compile(
    device, expected
):
    found = cases(BACKENDS, ("tokens64",), ["vivit1"], device, "float32", ())
    compiled = [row.get("compiled") for row in found if row["kind"] == "model"]
    assert compiled.count(True) == 1
    assert {row["backend"] for row in found if row.get("compiled")} == expected


def row(model, train, number=1, **changes):
    return {
        **{"kind": "model", "size": "tokens64", "model": model, "round": number, **CPU},
        **{"parameters": 1000, "first_step": 2.0, "first_prediction": 1.0},
        **{"train": train, "train_best": train / 2, "predict": train / 4},
        **{"predict_best": train / 4, "memory": 3e6, **changes},
    }


@pytest.fixture
def record():
    return {
        "busy": {"1": 0.02, "2": 0.07},
        "environment": {
            **{"machine": "a processor, 2 cores", "device": "cpu", "dtype": "float32"},
            **{"threads": 2, "versions": {"keras": "3.15.0"}, "date": "2026-01-02"},
        },
        "rows": [
            {"kind": "gemm", "round": 1, **CPU, "operations": 1e11},
            *(row("vivit1", train, i) for i, train in enumerate((0.1, 0.4, 0.2))),
            row("keras-example", 0.25),
            row("transformers", 0.5, memory=1e6),
            row("keras-example", 0.001, size="tokens27"),
            row("keras-example", 0.001, backend=OTHER_BACKEND),
            row("vit-pytorch-2", 0.001),
            {**row("vivit2", 1.0), "error": "out of memory"},
            *(
                {"kind": "data", "round": 1, **CPU, "augment": augment, "epoch": epoch}
                for augment, epoch in ((False, 2.0), (True, 3.0))
            ),
        ],
    }


def test_ratios_are_medians_to_the_best_peer_of_the_framework_and_size(record):
    rows = tables.compare(tables.summarize(record["rows"]))
    ours, failed = (next(r for r in rows if r["model"] == f"vivit{i}") for i in (1, 2))
    assert (ours["train"], ours["train_best"], ours["rounds"]) == (0.2, 0.05, 3)
    assert ours["train_ratio"] == pytest.approx(0.2 / 0.25)
    assert ours["memory_ratio"] == pytest.approx(3)
    assert ours["tokens"] == 64
    done = flops.operations(SIZES["tokens64"], MODELS["vivit1"], training=True)
    assert ours["train_share"] == pytest.approx(done / 0.2 / 1e11)
    assert ours["train_spread"] == pytest.approx((0.4 - 0.1) / 0.2)
    assert failed["error"] == "out of memory"


def test_table_has_a_line_per_case(record):
    text = tables.markdown(record)
    assert "a processor, 2 cores, 2 threads, float32, 2026-01-02; keras 3.15.0" in text
    line = (
        f"| {BACKEND} | vivit1 | 64 | 1,000 | 200.0 (0.80) | 50.0 (0.80) | 3.0 (3.00)"
    )
    assert line in text
    assert text.count("| 150% | 150% |") == 1  # the spread of `vivit1`
    assert "up to 7% of the processors" in text
    assert f"| {BACKEND} | vivit2 | failed: out of memory |" in text
    assert f"| {BACKEND} | 2.0 | 3.0 | 1.50 |" in text
    assert f"| {BACKEND} | float32 | 100 |" in text
    columns = [
        {part.count("|") for part in block.splitlines()} for block in text.split("\n\n")
    ]
    assert all(len(counts) == 1 for counts in columns)


def test_table_and_plot_are_written(record, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "speed.json"
    path.write_text(json.dumps(record))
    tables.write(path)
    assert path.with_suffix(".md").read_text() == tables.markdown(record)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


# === Running ===


@pytest.fixture
def measured(monkeypatch):
    """The cases that `run.py` measured, with made-up results."""
    found = []

    def fake(case, device):
        found.append(case)
        result = {} if case["kind"] == "gemm" else row(case["model"], 0.1)
        return {"operations": 1e9, **result, **case}

    monkeypatch.setattr(run, "run", fake)
    monkeypatch.setattr(run, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(run, "busy", lambda: 0.31)
    return found


def test_killed_run_goes_on_and_another_machine_is_refused(measured, tmp_path, capsys):
    arguments = ["--backends", BACKEND, "--device", "cpu", "--sizes", "tokens64"]
    arguments += ["--models", "vivit1", "--out", str(tmp_path), "--threads"]
    run.main([*arguments, "1", "--rounds", "1"])
    count = len(measured)  # two peaks, and the model once or twice
    assert count == (4 if BACKEND == "tensorflow" else 3)
    path = tmp_path / "speed-cpu-float32.json"
    record = json.loads(path.read_text())
    record["rows"][1]["error"] = "killed"
    path.write_text(json.dumps(record))
    measured.clear()
    run.main([*arguments, "1", "--rounds", "2"])
    assert [case["round"] for case in measured] == [1] + [2] * count
    assert len(json.loads(path.read_text())["rows"]) == 2 * count
    with pytest.raises(SystemExit, match="results of another threads"):
        run.main([*arguments, "2"])
    said = capsys.readouterr().out
    assert "Medians of 2 rounds" in said
    assert said.count("other programs use 31% of the processors") == 3
    assert json.loads(path.read_text())["busy"] == {"1": 0.31, "2": 0.31}


def test_use_of_the_processors_is_a_share():
    share = run.busy(0.05)
    assert share is None or 0 <= share <= 1


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx512f avx512_bf16", True), ("avx2 avx512f", False)]
)
def test_bfloat16_is_measured_where_the_processor_has_it(flags, expected, monkeypatch):
    monkeypatch.setattr(run.Path, "read_text", lambda _: f"flags\t: fpu {flags}\n")
    assert run.multiplies_bfloat16() == expected


def test_fast_paths_are_taken_away_one_at_a_time(monkeypatch, tmp_path, capsys):
    found = []

    def fake(case, device):
        found.append(case.get("without"))
        return {"train": 0.5, "predict": 0.5 if "without" in case else 0.25}

    monkeypatch.setattr(paths, "run", fake)
    options = ["--sizes", "tokens64", "--rounds", "2", "--out", str(tmp_path)]
    paths.main(["--backends", BACKEND, *options])
    names = paths.paths(BACKEND)
    assert {"product", "layer_norm", "dot_product_attention"} < set(names)
    assert found == [None, *names] * 2
    assert f"| {BACKEND} | tokens64 | `product` | 1.00 " in capsys.readouterr().out
    rows = json.loads((tmp_path / f"paths-{BACKEND}-float32.json").read_text())["rows"]
    assert [row["predict"] for row in rows] == [[0.5, 0.5]] * len(names)


@ignore_dropped_voxels
def test_path_that_is_taken_away_does_not_run(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", dataclasses.replace(TINY, num_layers=1))
    monkeypatch.setattr(fast, "_own", fast._own.__wrapped__)
    module = fast.module()
    monkeypatch.setattr(module, "layer_norm", lambda *arguments: 1 / 0)
    case = {**CPU, "kind": "model", "model": "vivit1", "size": "tiny"}
    with pytest.raises(Exception, match="division by zero"):
        measure.measure(case)
    measure.measure({**case, "without": "layer_norm"})


def test_failed_case_says_why(monkeypatch):
    case = {"kind": "unknown", "backend": BACKEND, "threads": 1}
    monkeypatch.setattr(run, "FOLDER", Path("nowhere"))
    assert "can't open file" in run.run(case, "cpu")["error"]
