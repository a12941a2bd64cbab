"""A segmentation model for volumes, composed from layers: something no preset is.

    python examples/compose_custom_model.py

Tokens stay on their grid `(t, h, w)`, so a dense layer can turn each one back into the
voxels of its tubelet. The model learns, in well under a minute on a CPU, to find a ball
in noise, and is saved and loaded again.
"""

import argparse
import os
from importlib.util import find_spec

if "KERAS_BACKEND" not in os.environ:
    installed = [name for name in ("jax", "torch", "tensorflow") if find_spec(name)]
    os.environ["KERAS_BACKEND"] = (installed or ["tensorflow"])[0]
    print(f"KERAS_BACKEND is not set, taking {os.environ['KERAS_BACKEND']}.")

import keras
import numpy as np
from keras import ops

import keras_vivit as kv

SIZE, TUBELET, DIM = 24, 4, 64


def balls(count, seed):
    """Noisy volumes `(count, 24, 24, 24, 1)`, and which of their voxels are a ball."""
    rng = np.random.default_rng(seed)
    voxels = np.stack(np.indices((SIZE,) * 3), axis=-1)
    center = rng.uniform(6, SIZE - 7, (count, 1, 1, 1, 3))
    radius = rng.uniform(3, 6, (count, 1, 1, 1))
    inside = np.linalg.norm(voxels - center, axis=-1) < radius
    volumes = inside + rng.normal(scale=0.5, size=inside.shape)
    return volumes[..., None].astype("float32"), inside[..., None].astype("float32")


def to_voxels(tokens):
    """`(batch, t, h, w, 4 * 4 * 4 * 8)` to `(batch, 4 * t, 4 * h, 4 * w, 8)`."""
    grid = SIZE // TUBELET
    x = ops.reshape(tokens, (-1, *[grid] * 3, *[TUBELET] * 3, 8))
    x = ops.transpose(x, (0, 1, 4, 2, 5, 3, 6, 7))
    return ops.reshape(x, (-1, *[SIZE] * 3, 8))


def build():
    """Stem, two kinds of blocks, and a skip connection to a dense head."""
    volume = keras.Input((SIZE, SIZE, SIZE, 1))
    x = stem = kv.TubeletEmbedding(DIM, (TUBELET,) * 3)(volume)  # (batch, 6, 6, 6, 64)
    x = kv.PositionalEncoder("sincos")(x)
    x = kv.FactorizedSelfAttentionBlock(num_heads=4, mlp_dim=2 * DIM)(x)
    x = kv.ViViTEncoderBlock(num_heads=4, mlp_dim=2 * DIM, drop_path_rate=0.1)(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.Concatenate()([x, stem])
    x = keras.layers.Dense(TUBELET**3 * 8, activation="relu")(x)
    x = keras.layers.Concatenate()([to_voxels(x), volume])  # (batch, 24, 24, 24, 9)
    return keras.Model(volume, keras.layers.Dense(1, activation="sigmoid")(x))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", default="segmenter.keras")
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(0)
    model = build()
    model.compile(keras.optimizers.AdamW(3e-3), loss="binary_crossentropy")
    model.fit(*balls(128, seed=0), batch_size=16, epochs=options.epochs)
    volumes, masks = balls(32, seed=1)
    predictions = model.predict(volumes, verbose=0)
    found, inside = predictions > 0.5, masks > 0
    iou = (found & inside).sum() / (found | inside).sum()
    print(f"Intersection over union on new volumes: {iou:.3f}")

    model.save(options.out)
    again = keras.saving.load_model(options.out).predict(volumes, verbose=0)
    same = np.array_equal(predictions, again)
    print(f"Saved as {options.out} and loaded: same predictions: {same}")
    return iou, same


if __name__ == "__main__":
    main()
