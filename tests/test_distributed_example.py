"""Training on several devices ends as training on one, also after a worker's death.

Run as a script it is the example, called with each of its arguments, split like a
command line; `DIE` names a file that a worker writes when it dies, once.
"""

import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import only

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "examples"), str(ROOT / "docs")]

import distributed  # noqa: E402

VARIANTS = (
    "spatio_temporal",
    "factorized_encoder",
    "factorized_self_attention",
    "factorized_dot_product",
)
JAX = "KERAS_DISTRIBUTION_"
TIMEOUT = 600
# Of the workers, too: JAX compiles for each layout.
SMALL = {**distributed.SIZES, "num_layers": 1, "mlp_dim": 128}


each_variant = pytest.mark.parametrize("variant", VARIANTS)


def start(*runs, launcher=(sys.executable,), **environment):
    command = [*launcher, __file__, *(shlex.join(map(str, run)) for run in runs)]
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    """Waits, and returns what each run of the script has printed."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == code, output + errors
    return [json.loads(line) for line in output.splitlines() if line[:1] == "{"]


def torchrun(processes, *options):
    module = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return (*module, f"--nproc-per-node={processes}", *options)


def start_two(*runs, devices=4, **environment):
    """Starts two JAX processes, each with so many virtual devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices}"
    names = {f"{JAX}JOB_ADDRESSES": address, f"{JAX}NUM_PROCESSES": "2"}
    return [
        start(*runs, XLA_FLAGS=flags, **names, **{f"{JAX}PROCESS_ID": i}, **environment)
        for i in "01"
    ]


def finish_all(processes):
    try:
        return [finish(process) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "SIZES", SMALL)
        yield


@pytest.fixture(scope="module")
def alone():
    """Returns the function that trains without any distribution."""
    kept = {}

    def train(variant):
        if variant not in kept:
            options = distributed.parse(["--variant", variant])
            losses = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(distributed, "report", lambda *row: losses.append(row[2]))
                model = distributed.build(options)
                distributed.fit(model, options, distributed.Checkpoint(options.out))
            weights = [keras.ops.convert_to_numpy(w) for w in model.weights]
            kept[variant] = losses, weights
        return kept[variant]

    return train


def same(losses, expected, steps=20):
    assert (len(losses), len(expected)) == (steps, 20)
    assert expected[-1] < expected[0] / 5  # It learns: the losses say something.
    np.testing.assert_allclose(losses, expected[-steps:], rtol=0, atol=1e-4)


def same_weights(folder, expected):
    with np.load(folder / "checkpoint.npz") as saved:
        for i, weight in enumerate(expected):
            np.testing.assert_allclose(saved[f"arr_{i}"], weight, rtol=0, atol=1e-4)


# === JAX ===

LAYOUTS = {
    "2": ("--devices", 2),
    "8": ("--devices", 8),
    "2 x 4": ("--devices", 8, "--model-parallel", 4),
    "4 x 2 sharded": ("--devices", 8, "--model-parallel", 2, "--fully-sharded"),
}
# All layouts for one variant, both axes at once for the others.
PLACES = [
    *((VARIANTS[0], layout) for layout in LAYOUTS),
    *((variant, x) for variant in VARIANTS[1:] for x in ("2 x 4", "4 x 2 sharded")),
]


@pytest.fixture(scope="module")
def virtual():
    """Variants on virtual devices of one process: `[variant, layout]`."""
    runs = [("--variant", variant, *LAYOUTS[layout]) for variant, layout in PLACES]
    flags = "--xla_force_host_platform_device_count=8"
    return dict(zip(PLACES, finish(start(*runs, XLA_FLAGS=flags)), strict=True))


@pytest.mark.slow
@only("jax")
@pytest.mark.parametrize(("variant", "layout"), PLACES)
def test_losses_do_not_depend_on_the_devices(variant, layout, virtual, alone):
    same(virtual[variant, layout]["losses"], alone(variant)[0])


@pytest.mark.slow
@only("jax")
@each_variant
def test_heads_and_hidden_layers_are_divided(variant, virtual):
    shapes = virtual[variant, "2 x 4"]["shapes"]
    for path, (shape, shard, momentum) in shapes.items():
        expected = list(shape)
        if re.search("attention/|mlp/", path) and not path.endswith("output/bias"):
            first = path.endswith(("output/kernel", "bias"))
            expected[0 if first else 1] //= 4
        assert shard == expected, path
        assert momentum == expected, path
    whole, divided = (
        sum(math.prod(row[i]) for row in shapes.values()) for i in range(2)
    )
    assert divided < 0.5 * whole


@pytest.mark.slow
@only("jax")
@each_variant
def test_fully_sharded_devices_hold_what_the_cost_model_says(variant, virtual):
    scaling = pytest.importorskip("scaling", reason="a source distribution has no docs")
    shapes = virtual[variant, "4 x 2 sharded"]["shapes"]
    config = {**distributed.SIZES, "num_classes": distributed.CLASSES}
    expected = scaling.held({**config, "variant": variant}, copies=4, parts=2)
    for place in (1, 2):  # weights, and their momentums
        held = sum(math.prod(row[place]) for row in shapes.values())
        assert held == expected
    assert expected < 0.3 * sum(math.prod(row[0]) for row in shapes.values())


@pytest.mark.slow
@only("jax")
@pytest.mark.parametrize("layout", ["2", "8"])
def test_data_parallel_keeps_whole_variables_everywhere(layout, virtual):
    shapes = virtual["spatio_temporal", layout]["shapes"]
    assert all(shape == shard for shape, shard, _ in shapes.values())


@pytest.mark.slow
@only("jax")
def test_two_processes_have_the_losses_of_one(alone):
    runs = [("--variant", variant) for variant in VARIANTS]
    results, others = finish_all(start_two(*runs, devices=1))
    for variant, result, other in zip(VARIANTS, results, others, strict=True):
        assert other["losses"] == []
        same(result["losses"], alone(variant)[0])


@pytest.mark.slow
@only("jax")
def test_two_processes_go_on_after_the_death_of_one(tmp_path, alone):
    """They die as copies of the model and go on with one, divided over both."""
    losses, weights = alone("spatio_temporal")
    out, mark = ("--out", tmp_path), tmp_path / "died"
    first, second = start_two(out, DIE=str(mark))
    finish(second, -signal.SIGKILL)
    first.kill()  # It may wait for the other.
    first.communicate()
    with np.load(tmp_path / "checkpoint.npz") as saved:
        assert saved["epochs"] == 2
    result, other = finish_all(start_two((*out, "--model-parallel", 8), DIE=str(mark)))
    assert other[0]["losses"] == []
    same(result[0]["losses"], losses, steps=10)
    same_weights(tmp_path, weights)


@only("jax")
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--devices 2", "`--devices` must be 1 to 1. Received: 2"),
        ("--model-parallel 3", "must divide 1 devices and 8 heads. Received: 3"),
    ],
)
def test_wrong_counts_are_refused(arguments, error):
    with pytest.raises(SystemExit, match=error):
        distributed.main(arguments.split())


# === PyTorch ===


@pytest.mark.slow
@only("torch")
def test_two_torch_processes_have_the_losses_of_one(alone):
    runs = [("--variant", variant) for variant in VARIANTS]
    results = finish(start(*runs, launcher=torchrun(2)))
    results = [result for result in results if result["losses"]]
    for variant, result in zip(VARIANTS, results, strict=True):
        same(result["losses"], alone(variant)[0])


@pytest.mark.slow
@only("torch")
def test_torchrun_starts_again_after_the_death_of_a_process(tmp_path, alone):
    losses, weights = alone("spatio_temporal")
    mark = tmp_path / "died"
    launcher = torchrun(2, "--max-restarts=1")
    # Else they may find addresses of the dead: pytorch/pytorch#135712.
    environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "DIE": str(mark)}
    results = finish(start(("--out", tmp_path), launcher=launcher, **environment))
    assert mark.exists()
    (resumed,) = [result["losses"] for result in results if result["losses"]]
    same(resumed, losses, steps=10)
    same_weights(tmp_path, weights)


# === TensorFlow ===


@pytest.mark.slow
@only("tensorflow")
@pytest.mark.parametrize("variant", VARIANTS[1:])  # The next test has variant 1.
def test_two_mirrored_devices_have_the_losses_of_one(variant, alone):
    (result,) = finish(start(("--variant", variant, "--devices", 2)))
    same(result["losses"], alone(variant)[0])


@pytest.mark.slow
@only("tensorflow")
def test_mirrored_devices_go_on_after_death(tmp_path, alone):
    losses, weights = alone("spatio_temporal")
    run, mark = ("--out", tmp_path, "--devices", 2), tmp_path / "died"
    finish(start(run, DIE=str(mark)), -signal.SIGKILL)
    (result,) = finish(start(run, DIE=str(mark)))
    same(result["losses"], losses, steps=10)
    same_weights(tmp_path, weights)


@only("torch", "tensorflow")
def test_model_parallel_needs_jax():
    with pytest.raises(SystemExit, match="`--fully-sharded` need JAX"):
        distributed.main(["--model-parallel", "2"])


# === A worker ===


def die_once(mark):
    """Has the last worker die in the third epoch, unless one has died before."""
    worker = os.environ.get("RANK") or os.environ.get(f"{JAX}PROCESS_ID", "1")
    volumes = distributed.volumes

    def deadly(epoch, step):
        if (epoch, step, worker) == (2, 2, "1") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return volumes(epoch, step)

    distributed.volumes = deadly


def shapes_of(model):
    """The shape of each weight, of its part on a device, and of its momentum's."""
    if keras.config.backend() != "jax":
        return {}
    momentums = model.optimizer.variables[2:]  # after iteration and learning rate
    return {
        weight.path: (weight.shape, part(weight), part(momentum))
        for weight, momentum in zip(model.weights, momentums, strict=True)
    }


def part(variable):
    return variable.value.addressable_shards[0].data.shape


def work(arguments):
    """Calls the example, and writes what it did as a line of JSON, in one piece."""
    losses, models, build = [], [], distributed.build
    distributed.report = lambda *row: losses.append(row[2])
    distributed.build = lambda options: models.append(build(options)) or models[-1]
    distributed.main(arguments)
    distributed.build = build
    result = {"losses": losses, "shapes": shapes_of(models[0])}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    distributed.SIZES = SMALL
    if mark := os.environ.get("DIE"):
        die_once(Path(mark))
    if keras.config.backend() == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
    for run in sys.argv[1:]:
        work(shlex.split(run))
