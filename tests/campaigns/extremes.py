"""Extreme numbers: results are finite, or refused in words, the same on each backend.

`cd tests && python -m campaigns.extremes --out FILE.json` runs all on one backend.
"""

import argparse
import pathlib
import warnings

import keras
import numpy as np
from campaigns.output import write
from helpers import AUGMENTATIONS, flat, normal, randomize, small_classifier

import keras_vivit as kv
from keras_vivit.backbone import VARIANTS

SHAPE = (2, 4, 16, 16, 1)
MASK = np.array([[1, 1, 1, 1], [0, 0, 0, 0]], bool)  # Of the second video, nothing.
DTYPES = ("float32", "float16", "mixed_float16", "bfloat16")
PIXELS = {
    "zeros": np.zeros(SHAPE, "float32"),
    "constant": np.full(SHAPE, 255, "float32"),
    "largest of float16": np.full(SHAPE, 65504, "float32"),
    "largest of float32": np.full(SHAPE, 3.4e38, "float32"),
    "smallest of float32": np.full(SHAPE, 1e-45, "float32"),
}
LOST = {"NaN": np.nan, "infinite": np.inf}


def model(variant="spatio_temporal", **arguments):
    arguments = {"num_layers": 1, "variant": variant, **arguments}
    return small_classifier(**arguments)


def cases(tokens=100_000):
    """Yields pairs of a name and a function that returns tensors."""
    for variant in VARIANTS:
        for name, pixels in PIXELS.items():
            yield f"{variant}: {name}", lambda v=variant, x=pixels: model(v)(x)
        yield f"{variant}: a mask that keeps nothing", lambda v=variant: _masked(v)
        yield f"{variant}: one token", lambda v=variant: _one_token(v)
        yield f"{variant}: batch of 0", lambda v=variant: _batch(v, 0)
        yield f"{variant}: batch of 1", lambda v=variant: _batch(v, 1)
        for name, value in LOST.items():
            yield f"{variant}: {name}, masked", lambda v=variant, x=value: _masked(v, x)
    for dtype in DTYPES[1:]:
        for name in ("zeros", "constant", "largest of float16"):
            yield f"{dtype}: {name}", lambda d=dtype, n=name: _half(d, PIXELS[n])
    for block in (kv.FactorizedSelfAttentionBlock, kv.FactorizedDotProductBlock):
        yield f"{block.__name__}: {tokens} tokens", lambda b=block: _long(b, tokens)
    for layer, arguments in AUGMENTATIONS.items():
        for name in ("zeros", "constant"):
            yield (
                f"{layer.__name__}: {name}",
                lambda c=layer, a=arguments, n=name: _augmented(c, a, PIXELS[n]),
            )
        if layer not in (kv.augmentation.MixUp, kv.augmentation.CutMix):
            yield (
                f"{layer.__name__}: a mask that keeps nothing",
                lambda c=layer, a=arguments: _augmented(c, a, PIXELS["zeros"], MASK),
            )
    maps = kv.visualization
    for explain in (maps.attention_rollout, maps.relevance, maps.grad_cam):
        for name in ("zeros", "constant"):
            yield (
                f"{explain.__name__}: {name}",
                lambda f=explain, n=name: f(model(), PIXELS[n]),
            )
    for name in ("zeros", "constant"):
        yield f"overlay: {name}", lambda n=name: _overlay(PIXELS[n])
    for name, value in LOST.items():
        video = np.full(SHAPE[1:], value, "float32")
        yield f"overlay: {name}", lambda x=video: _overlay(x[None])
        yield (
            f"predict_views: {name}",
            lambda x=video: kv.data.predict_views(model(), x, num_crops=1),
        )
        yield (
            f"predict_over_time: {name}",
            lambda x=video: kv.data.predict_over_time(model(), x)[1],
        )


def _masked(variant, value=1.0):
    """The masked frames hold `value`."""
    mask = MASK if value == 1.0 else np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    video = np.where(mask[..., None, None, None], normal(*SHAPE), value)
    inputs = {"video": video.astype("float32"), "frame_mask": mask}
    return model(variant, masked=True)(inputs)


def _one_token(variant):
    arguments = {"video_shape": (2, 8, 8, 1), "tubelet_size": (2, 8, 8)}
    return model(variant, **arguments)(normal(2, 2, 8, 8, 1))


def _batch(variant, size):
    pixels, network = normal(*SHAPE), model(variant)
    (some,) = flat(network(pixels[:size]))
    (both,) = flat(network(pixels))
    assert some.shape == (size, both.shape[1])
    np.testing.assert_allclose(some, both[:size], atol=1e-5)
    return some


def _half(dtype, pixels):
    return model(dtype=dtype, rescaling=(1 / 127.5, -1.0))(pixels)


def _long(block_class, tokens):
    frames = max(1, tokens // 1024)
    block = block_class(2, 4)
    block.build((None, frames, 32, -(-tokens // (32 * frames)), 4))
    randomize(block)
    return block(normal(1, frames, 32, -(-tokens // (32 * frames)), 4))


def _augmented(layer_class, arguments, pixels, mask=None):
    data = {"videos": pixels, "labels": np.eye(2, 3, dtype="float32")}
    if mask is not None:
        data["frame_mask"] = mask
    return layer_class(**{**arguments, "seed": 0})(data)


def _overlay(pixels):
    return kv.visualization.overlay(pixels, np.ones((len(pixels), 2, 2, 2)))


def outcome(function):
    """Returns what a case gives: "finite", or what is wrong; and the mean size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)  # NumPy's own
        try:
            arrays = flat(function())
        except ValueError as error:
            text = str(error)
            worded = text.startswith("`") and "Received" in text
            return "refused in words" if worded else f"ValueError: {text}", None
        except Exception as error:
            return f"{type(error).__name__}: {error}", None
    if not all(np.isfinite(x).all() for x in arrays):
        return "not finite", None
    sizes = [float(np.abs(x).mean()) for x in arrays if x.size]
    return "finite", round(float(np.mean(sizes or [0])), 4)


def campaign(tokens=100_000):
    keras.utils.set_random_seed(0)
    results = {name: outcome(function) for name, function in cases(tokens)}
    return {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "cases": {name: {"is": i, "mean": m} for name, (i, m) in results.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file")
    arguments = parser.parse_args()
    write(campaign(arguments.tokens), arguments.out)


if __name__ == "__main__":
    main()
