"""Files of a model that was trained are loaded into a model of another grid."""

import keras
import numpy as np
import pytest
from helpers import flat, normal, randomize

import keras_vivit as kv

SIZES = {
    "tubelet_size": (2, 4, 4),
    "embed_dim": 12,
    "num_layers": 1,
    "num_temporal_layers": 1,
    "num_heads": 2,
    "mlp_dim": 16,
}
SHORT, LONG = (4, 8, 8, 1), (6, 8, 12, 1)
OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(1e-2),
    "ema": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, use_ema=True),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2)),
    "muon": lambda: keras.optimizers.Muon(1e-2),
}


def make(video_shape, optimizer, model=kv.ViViTClassifier, seed=1, **changes):
    arguments = {**SIZES, **changes}
    if model is kv.ViViTClassifier:
        arguments.setdefault("num_classes", 3)
    made = model(video_shape, **arguments)
    randomize(made, seed)
    made.compile(OPTIMIZERS[optimizer](), "mse")
    made.optimizer.build(made.trainable_variables)
    return made


def train(model, video_shape):
    outputs = [2, *(model.output_shape[1:])]
    model.train_on_batch(normal(2, *video_shape), np.ones(outputs, "float32"))


@pytest.mark.parametrize(
    ("variant", "optimizer"),
    [
        ("spatio_temporal", "adamw"),
        *(
            pytest.param("factorized_encoder", o, marks=pytest.mark.slow)
            for o in OPTIMIZERS
        ),
    ],
)
def test_moments_of_tables_start_at_zero_and_the_rest_loads(
    variant, optimizer, tmp_path
):
    short = make(SHORT, optimizer, variant=variant)
    train(short, SHORT)
    for name in ("model.keras", "model.weights.h5"):
        path = tmp_path / name
        (short.save if name == "model.keras" else short.save_weights)(path)
        long = make(LONG, optimizer, variant=variant, seed=2)
        train(long, LONG)
        long.load_weights(path)
        tables = 0
        for ours, saved in zip(
            long.optimizer.variables, short.optimizer.variables, strict=True
        ):
            ours_value, saved_value = flat(ours)[0], flat(saved)[0]
            if ours_value.shape == saved_value.shape:
                np.testing.assert_array_equal(ours_value, saved_value)
            elif ours.name.endswith("average"):
                grid = ours_value.shape[:-1]
                expected = kv.resize_position_table(saved_value, grid)
                np.testing.assert_allclose(ours_value, expected, atol=1e-6)
            else:
                tables += 1
                assert "position_table" in ours.name
                assert not ours_value.any()
        assert tables
        assert int(long.optimizer.iterations) == 1
        train(long, LONG)  # `assign` is as before.
        assert all(np.isfinite(x).all() for x in flat(long.weights))


def test_backbones_load_them_too(tmp_path):
    short = make(SHORT, "adamw", kv.ViViTBackbone, position_kind="factorized")
    train(short, SHORT)
    short.save_weights(tmp_path / "model.weights.h5")
    long = make(LONG, "adamw", kv.ViViTBackbone, position_kind="factorized")
    long.load_weights(tmp_path / "model.weights.h5")
    assert int(long.optimizer.iterations) == 1


def test_state_that_does_not_fit_is_refused_in_words(tmp_path):
    short = make(SHORT, "adamw")
    train(short, SHORT)
    short.save_weights(tmp_path / "model.weights.h5")
    wide = make(SHORT, "adamw")
    # The weights fit, the state does not.
    wide.optimizer = keras.optimizers.AdamW()
    wide.optimizer.build([keras.Variable(np.ones(5)) for _ in short.trainable_weights])
    with pytest.raises(ValueError, match=r"state of the optimizer must fit.*\(5,\)"):
        wide.load_weights(tmp_path / "model.weights.h5")


# Keras looks for a layer that it could not load in further places, and warns there.
@pytest.mark.filterwarnings("ignore:Skipping nested container")
@pytest.mark.parametrize("saved", ["learned", "factorized", "sincos"])
@pytest.mark.parametrize("built", ["learned", "factorized", "sincos"])
def test_other_kinds_of_positions_are_refused_in_words(saved, built, tmp_path):
    path = tmp_path / "model.weights.h5"
    kv.ViViTBackbone(SHORT, position_kind=saved, **SIZES).save_weights(path)
    model = kv.ViViTBackbone(LONG, position_kind=built, **SIZES)
    if saved == built:
        model.load_weights(path)
        return
    with pytest.raises(ValueError, match="`position_kind` must be that of the saved"):
        model.load_weights(path)
