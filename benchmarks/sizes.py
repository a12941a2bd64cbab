"""What is compared, as data: sizes, models, and the cases that they make."""

import dataclasses
import math
from importlib.util import find_spec
from typing import NamedTuple

BACKENDS = ("jax", "tensorflow", "torch")


@dataclasses.dataclass(frozen=True)
class Size:
    """Videos, tubelets without overlap ("valid" padding), and a transformer."""

    video: tuple  # frames, height, width, channels
    tubelet: tuple
    embed_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    batch: int
    num_classes: int
    num_temporal_layers: int = 4  # of variant 2 alone
    activation: str = "gelu"  # of our own models; exact, as in most of the others

    @property
    def grid(self):
        """Tokens along each axis."""
        return tuple(n // k for n, k in zip(self.video, self.tubelet, strict=False))

    @property
    def used(self):
        """Frames, height and width that the tubelets cover."""
        return tuple(n * k for n, k in zip(self.grid, self.tubelet, strict=True))

    def __str__(self):
        video, tubelet = ("x".join(map(str, x)) for x in (self.video, self.tubelet))
        return (
            f"videos {video}, tubelets {tubelet}, {math.prod(self.grid)} tokens, width "
            f"{self.embed_dim}, {self.num_layers} layers, {self.num_heads} heads, MLP "
            f"{self.mlp_dim}, batch {self.batch}"
        )


VOLUME, VIDEO = (28, 28, 28, 1), (32, 224, 224, 3)
# From few tokens to many, as many in a batch of each: `growth.py`.
_GRIDS = (3, 3, 3), (4, 4, 4), (6, 6, 6), (8, 8, 8), (8, 14, 14), (16, 14, 14)
GROWTH = {
    f"growth{math.prod(grid)}": Size(
        (2 * grid[0], 4 * grid[1], 4 * grid[2], 1),
        (2, 4, 4),
        *(64, 2, 4, 256),
        batch=12544 // math.prod(grid),
        num_classes=11,
        num_temporal_layers=1,
    )
    for grid in (*_GRIDS, (16, 28, 28))
}
SIZES = {
    "tokens27": Size(VOLUME, (8, 8, 8), 128, 8, 8, 512, 32, 11),
    "tokens64": Size(VOLUME, (7, 7, 7), 128, 4, 4, 512, 32, 11),
    "tokens343": Size(VOLUME, (4, 4, 4), 64, 6, 4, 256, 32, 11),
    # ViViT-S/16x2 with eight of its layers: what a long sequence costs in memory.
    "memory": Size(VIDEO, (2, 16, 16), 384, 8, 6, 1536, 1, 400, 1),
    "b16x2": Size(VIDEO, (2, 16, 16), 768, 12, 12, 3072, 4, 400),
    "l16x2": Size(VIDEO, (2, 16, 16), 1024, 24, 16, 4096, 2, 400),
    **GROWTH,
}
DEFAULT_SIZES = {
    "cpu": ("tokens27", "tokens64", "tokens343", "memory", "data"),
    "gpu": ("b16x2", "l16x2", "data"),
}
DEFAULT_DTYPES = {"cpu": "float32", "gpu": "mixed_bfloat16"}


class Model(NamedTuple):
    """A model of the comparison; `package` is the peer's, `None` for our own."""

    variant: int = 1
    class_token: bool = False
    remat: bool = False
    package: str | None = None
    backends: tuple = BACKENDS

    @property
    def installed(self):
        return self.package is None or find_spec(self.package) is not None


MODELS = {
    "vivit1": Model(),
    "vivit1-token": Model(class_token=True),
    "vivit2": Model(2),
    "vivit3": Model(3),
    "vivit4": Model(4),
    "vivit1-remat": Model(remat=True),
    "keras-example": Model(package="keras"),
    "transformers": Model(1, True, False, "transformers", ("torch",)),
    "vit-pytorch": Model(1, True, False, "vit_pytorch", ("torch",)),
    "vit-pytorch-2": Model(2, False, False, "vit_pytorch", ("torch",)),
    "vit-pytorch-3": Model(3, False, False, "vit_pytorch", ("torch",)),
}
JOINT = ("vivit1", "vivit1-remat", "keras-example", "transformers", "vit-pytorch")


def models_of(size):
    """The models measured at a size, if none were asked for."""
    if size == "memory":
        return JOINT
    return tuple(name for name in MODELS if name != "vivit1-remat")


def tokens(size, model):
    """Length of the sequence, a class token included."""
    return math.prod(size.grid) + model.class_token


def cases(backends, sizes, models, device, dtype, precisions):
    """Returns dictionaries, one for each process of a round.

    The peaks of matrix products come first, then the models, then the data path.
    `compiled` is `jit_compile=True`, or `torch.compile`, measured beside Keras' choice
    where that is not to use the compiler.
    """
    common = {"device": device, "dtype": dtype}
    found = [
        {"kind": "gemm", "backend": backend, "device": device, "dtype": precision}
        for backend in backends
        for precision in precisions
    ]
    for size in sizes:
        if size == "data":
            found += [
                {"kind": "data", "backend": backend, "augment": augment, **common}
                for backend in backends
                for augment in (False, True)
            ]
            continue
        found += [
            {
                "kind": "model",
                "backend": backend,
                "size": size,
                "model": name,
                "compiled": compiled,
                **common,
            }
            for backend in backends
            for name in models or models_of(size)
            if backend in MODELS[name].backends and MODELS[name].installed
            for compiled in ((False, True) if (backend, device) in TWICE else (False,))
        ]
    return found


TWICE = (("torch", "gpu"), ("tensorflow", "cpu"))
