"""Soak: hundreds of trainings, predictions, saves and loads in one process.

`cd tests && python -m campaigns.soak --rounds 200` measures the memory after each
round, then predicts in eight threads, and with two precisions in turns. With `--keras`,
a model of Keras' own layers takes the part of ours: what grows then is upstream.
"""

import argparse
import concurrent.futures
import gc
import pathlib
import tempfile

import keras
import numpy as np
from campaigns.output import write
from helpers import flat, normal, small_classifier

import keras_vivit as kv

VIDEOS = normal(4, 4, 16, 16, 1)
LABELS = np.arange(4) % 3


def resident():
    """Returns the memory of this process, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return 1024 * int(line.split()[1])
    raise OSError("no VmRSS")


def one_round(folder):
    keras.utils.clear_session(free_memory=False)
    model = small_classifier(num_layers=1, dropout_rate=0.1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(VIDEOS, LABELS, epochs=1, verbose=0)
    expected = model.predict(VIDEOS, verbose=0)
    model.save_to_preset(folder / "preset")
    again = kv.ViViTClassifier.from_preset(folder / "preset")
    np.testing.assert_allclose(again.predict(VIDEOS, verbose=0), expected, atol=1e-5)
    model.save(folder / "model.keras")
    again = keras.saving.load_model(folder / "model.keras")
    np.testing.assert_allclose(again.predict(VIDEOS, verbose=0), expected, atol=1e-5)


def round_of_keras(folder):
    """The same with Keras' own layers, which have no presets."""
    keras.utils.clear_session(free_memory=False)
    layers = keras.layers
    inputs = keras.Input(VIDEOS.shape[1:])
    x = layers.Dense(16)(layers.Reshape((4, 256))(inputs))
    x = x + layers.MultiHeadAttention(2, 8)(layers.LayerNormalization()(x), x)
    x = x + layers.Dense(16)(layers.Dense(32, "gelu")(layers.LayerNormalization()(x)))
    outputs = layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(VIDEOS, LABELS, epochs=1, verbose=0)
    expected = model.predict(VIDEOS, verbose=0)
    for _ in range(2):
        model.save(folder / "model.keras")
        again = keras.saving.load_model(folder / "model.keras")
        np.testing.assert_allclose(again.predict(VIDEOS, verbose=0), expected)


def memory(rounds, one_round=one_round):
    """Returns the resident memory after each round, in bytes."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        for _ in range(rounds):
            one_round(pathlib.Path(name))
            gc.collect()
            found.append(resident())
    return found


def growth(found):
    """Returns by which share the last quarter exceeds the second one, by medians."""
    quarter = max(len(found) // 4, 1)
    before, after = found[quarter : 2 * quarter], found[-quarter:]
    return float(np.median(after) / np.median(before) - 1)


def threads(number=8, calls=20):
    """Predicts in threads; returns the largest difference from one thread's results."""
    model = small_classifier(num_layers=1)
    videos = [normal(2, 4, 16, 16, 1, seed=seed) for seed in range(number)]
    expected = [flat(model(x))[0] for x in videos]

    def predict(i):
        return max(
            np.abs(flat(model(videos[i]))[0] - expected[i]).max() for _ in range(calls)
        )

    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        return float(max(pool.map(predict, range(number))))


def precisions(turns=10):
    """Runs models of two precisions in turns; returns the largest difference."""
    full = small_classifier(num_layers=1)
    half = small_classifier(num_layers=1, dtype="mixed_bfloat16")
    first = [flat(model(VIDEOS))[0] for model in (full, half)]
    assert half.backbone.compute_dtype == "bfloat16"
    difference = 0.0
    for _ in range(turns):
        for model, expected in zip((full, half), first, strict=True):
            difference = max(
                difference, np.abs(flat(model(VIDEOS))[0] - expected).max()
            )
    return float(difference)


def campaign(rounds, of_keras=False):
    found = memory(rounds, round_of_keras if of_keras else one_round)
    return {
        "backend": keras.backend.backend(),
        "model": "of Keras' layers" if of_keras else "ours",
        "keras": keras.__version__,
        "rounds": rounds,
        "megabytes": [round(x / 2**20, 1) for x in found[:: max(rounds // 20, 1)]],
        "growth": round(growth(found), 4),
        "threads": threads(),
        "precisions": precisions(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--keras", action="store_true", help="a model of Keras' layers")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file")
    arguments = parser.parse_args()
    write(campaign(arguments.rounds, arguments.keras), arguments.out)


if __name__ == "__main__":
    main()
