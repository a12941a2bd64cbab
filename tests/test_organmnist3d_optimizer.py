"""The recipe's optimizer, variable by variable: which rule, and how much decay."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import flat

from keras_vivit import ViViTClassifier

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "organmnist3d"))

import configs
import training

RATE = 0.125


@pytest.fixture(params=configs.CONFIGS)
def configuration(request):
    # Without a schedule, whose first step is of length zero.
    changes = {"learning_rate": RATE, "warmup_epochs": None, "weight_decay": 0.5}
    return {**configs.CONFIGS[request.param], **changes}


def make(variant, pooling="mean"):
    return ViViTClassifier(
        (4, 16, 16, 1),
        3,
        variant=variant,
        pooling=pooling,
        tubelet_size=(2, 8, 8),
        embed_dim=8,
        num_layers=1,
        num_temporal_layers=1,
        num_heads=2,
        mlp_dim=16,
    )


def step(model, configuration, gradient):
    """Sets all variables to one; returns how far one step takes each, by path."""
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer = training.optimizer(configuration, steps=10)
    optimizer.build(variables)
    optimizer.apply([gradient(variable.shape) for variable in variables], variables)
    return {variable.path: 1 - flat(variable)[0] for variable in variables}


MODELS = [(variant, "mean") for variant in configs.VARIANTS]
MODELS += [(variant, "token") for variant in configs.VARIANTS[:2]]


@pytest.mark.filterwarnings("ignore:.*ignores 37%:UserWarning")
@pytest.mark.parametrize(("variant", "pooling"), MODELS)
def test_kernels_decay_at_one_rate_and_nothing_else_does(
    variant, pooling, configuration
):
    steps = step(make(variant, pooling), configuration, keras.ops.zeros)
    for path, moved in steps.items():
        decay = 0.5 if path.endswith("/kernel") else 0
        np.testing.assert_allclose(moved, RATE * decay, atol=1e-6, err_msg=path)
    others = {path.rpartition("/")[2] for path in steps} - {"kernel"}
    assert others >= {"table", "bias", "gamma", "beta"}
    assert ({"token", "position"} <= others) == (pooling == "token")


@pytest.mark.parametrize("variant", configs.VARIANTS)
def test_muon_updates_the_kernels_of_blocks_and_nothing_else(variant, configuration):
    rng = np.random.default_rng(0)
    steps = step(
        make(variant),
        {**configuration, "weight_decay": 0.0},
        lambda shape: keras.ops.convert_to_tensor(
            rng.choice([-1.0, 1.0], shape), "float32"
        ),
    )
    # The first step of AdamW is as long in every direction, that of Muon is not.
    by_muon = {path for path, x in steps.items() if np.ptp(np.abs(x)) > 1e-3}
    of_blocks = {
        path for path in steps if "_block_" in path and path.endswith("/kernel")
    }
    assert len(of_blocks) in (6, 10, 12)
    assert by_muon == (of_blocks if configuration["optimizer"] == "muon" else set())
