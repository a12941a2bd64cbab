"""Fine-tunes a checkpoint in the `transformers` format, in one of four ways.

    python examples/finetune.py                                # small, in a minute
    python examples/finetune.py CHECKPOINT --data VIDEOS.npz --method lora

- `full` trains all weights;
- `layerwise` does, too, with a learning rate that falls by `--decay` from each block to
  the one below (Bao et al., 2021, https://arxiv.org/abs/2106.08254, appendix);
- `lora` trains adapters of `--rank` beside frozen weights, and the head;
- `frozen` trains the head alone.

CHECKPOINT is a folder or `hf://owner/name`. VIDEOS.npz has `train_images`,
`train_labels`, `val_images` and `val_labels`, as MedMNIST's files do: videos
`(n, frames, height, width)`, with or without channels, pixels 0 to 255, and integers.
Without them, a small model learns from many videos to tell along which axis and way a
square moves, and is tuned on few to tell the diagonals. Started again with the same
`--out`, a killed run goes on after its last finished epoch.
"""

import argparse
import sys
from pathlib import Path

import keras
import numpy as np
from common.command_line import check_alone, positive, whole
from common.resuming import Checkpoint

import keras_vivit

LEARNING_RATES = {"full": 3e-4, "layerwise": 1e-3, "lora": 3e-3, "frozen": 3e-3}
SMALL = {
    "video_shape": (8, 32, 32, 3),
    "tubelet_size": (2, 8, 8),
    "embed_dim": 64,
    "num_layers": 4,
    "num_heads": 4,
    "mlp_dim": 128,
    "pooling": "token",
    "rescaling": (1 / 127.5, -1),
}
LOSS = "sparse_categorical_crossentropy"
STRAIGHT = ((0, 1), (1, 0), (0, -1), (-1, 0))
DIAGONAL = ((1, 1), (1, -1), (-1, -1), (-1, 1))


def main(arguments=None):
    options = parse(arguments)
    try:
        run(options)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("checkpoint", nargs="?", help="folder or hf://owner/name")
    add("--data", type=Path, help="VIDEOS.npz")
    add("--method", choices=LEARNING_RATES, default="lora")
    add("--rank", type=int, default=4, help="of the adapters")
    add("--decay", type=float, default=0.75, help="of learning rates, layerwise")
    add("--learning-rate", type=float, help=f"default: {LEARNING_RATES}")
    add("--epochs", type=positive, default=10)
    add("--batch-size", type=positive, default=16)
    add("--seed", type=whole, default=0)
    add(
        "--videos",
        type=positive,
        default=512,
        help="made up for the checkpoint; 1/8 after",
    )
    add("--out", type=Path, default=Path("runs/finetune"), help="folder of results")
    return parser.parse_args(arguments)


def run(options):
    check_alone()
    keras.utils.set_random_seed(options.seed)
    if not 0 < options.decay <= 1:
        raise ValueError(
            f"`--decay` must be above 0, up to 1. Received: {options.decay}"
        )
    if options.rank < 1:
        raise ValueError(f"`--rank` must be positive. Received: {options.rank}")
    data = (
        read(options.data)
        if options.data
        else moving_squares(options.videos // 8, DIAGONAL)
    )
    source = options.checkpoint or pretrain(options)
    model = keras_vivit.ViViTClassifier.from_preset(
        source,
        num_classes=1 + int(data["train_labels"].max()),
        video_shape=data["train_images"].shape[1:],
    )
    prepare(model, options)
    checkpoint = Checkpoint(options.out)
    initial_epoch = checkpoint.load(model)
    fit(model, data, options, initial_epoch=initial_epoch, callbacks=[checkpoint])
    _, accuracy = model.evaluate(data["val_images"], data["val_labels"], verbose=0)
    model.compile("sgd", LOSS, metrics=["accuracy"])  # Loads without `ScaledAdamW`.
    model.save(options.out / "model.keras")
    print(f"Validation accuracy {accuracy:.3f}; model in {options.out}.")


def fit(model, data, options, **arguments):
    model.fit(
        data["train_images"],
        data["train_labels"],
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_data=(data["val_images"], data["val_labels"]),
        verbose=2,
        **arguments,
    )


# === The four ways ===


def prepare(model, options):
    """Chooses what trains, and how fast."""
    rate = options.learning_rate or LEARNING_RATES[options.method]
    scales = {}
    if options.method == "frozen":
        model.backbone.trainable = False
    elif options.method == "lora":
        model.enable_lora(options.rank)
    elif options.method == "layerwise":
        scales = layer_scales(model, options.decay)
    trained = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    print(f"{options.method}: trains {trained:,} of {model.count_params():,} weights.")
    model.compile(ScaledAdamW(scales, rate), LOSS, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)


def layer_scales(model, decay):
    """Returns path -> factor of the learning rate: 1 for the head, less below."""
    depth, depths = 0, {}
    for layer in model.backbone.layers:
        depth += "_block_" in layer.name
        depths.update((weight.path, depth) for weight in layer.weights)
    return {path: decay ** (depth + 1 - d) for path, d in depths.items()}


class ScaledAdamW(keras.optimizers.Adam):
    """AdamW with a factor of the learning rate for each variable.

    The decay of a kernel is scaled with its learning rate. Position tables, biases
    and norms do not decay.

    Args:
        scales: Dictionary, path of a variable -> factor. Others have 1.
        learning_rate: Float.
        weight_decay: Float, the decay of kernels.
    """

    def __init__(self, scales, learning_rate, weight_decay=0.01):
        super().__init__(learning_rate, clipnorm=1.0)
        self.scales = scales
        self.kernel_decay = weight_decay

    def build(self, variables):
        super().build(variables)
        self.factors = [self.scales.get(variable.path, 1) for variable in variables]
        self.decays = [
            self.kernel_decay if "kernel" in variable.name else 0
            for variable in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        # By index: on TensorFlow, `variable` is a `tf.Variable`, which has no path.
        index = self._get_variable_index(variable)
        rate = keras.ops.cast(learning_rate, variable.dtype) * self.factors[index]
        if self.decays[index]:
            self.assign_sub(variable, variable * rate * self.decays[index])
        super().update_step(gradient, variable, rate)


# === Videos ===


def read(path):
    with np.load(path, allow_pickle=False) as file:
        names = [f"{s}_{k}" for s in ("train", "val") for k in ("images", "labels")]
        if missing := sorted({*names} - {*file}):
            raise ValueError(f"{path} must have {names}. Missing: {missing}")
        data = {name: file[name] for name in names}
    for split in ("train", "val"):
        videos, labels = data[f"{split}_images"], data[f"{split}_labels"].reshape(-1)
        videos = videos[..., None] if videos.ndim == 4 else videos
        if videos.ndim != 5 or len(videos) != len(labels):
            raise ValueError(
                f"`{split}_images` must be (n, frames, height, width[, channels]), "
                f"with a label each. Received: {videos.shape} and {labels.shape}"
            )
        data[f"{split}_images"], data[f"{split}_labels"] = videos, labels
    return data


def moving_squares(count, directions):
    """Noisy videos of a square, and the index of the direction in which it moves."""
    rng = np.random.default_rng(len(directions) + sum(map(sum, directions)))
    frames, *size, channels = SMALL["video_shape"]

    def split(count):
        labels = rng.integers(len(directions), size=count)
        step = np.array(directions)[labels][:, None]  # (n, 1, 2)
        start = rng.integers(size, size=(count, 2))[:, None]
        corners = start + 2 * step * np.arange(frames)[:, None]  # (n, frames, 2)
        y, x = ((np.arange(32) - corners[..., i, None]) % 32 < 8 for i in range(2))
        squares = (y[..., :, None] & x[..., None, :])[..., None] * 64
        noise = rng.integers(192, size=(*squares.shape[:-1], channels))
        return (squares + noise).astype("uint8"), labels

    train, val = split(count), split(256)
    names = ("train_images", "train_labels", "val_images", "val_labels")
    return dict(zip(names, (*train, *val), strict=True))


def pretrain(options):
    """Trains a small model, writes it as a checkpoint, and returns its folder."""
    folder = options.out / "pretrained"
    if (folder / "config.json").exists():
        return folder
    model = keras_vivit.ViViTClassifier(num_classes=len(STRAIGHT), **SMALL)
    model.compile(ScaledAdamW({}, 1e-3), LOSS, metrics=["accuracy"])
    fit(model, moving_squares(options.videos, STRAIGHT), options)
    folder.mkdir(parents=True, exist_ok=True)
    keras_vivit.save_to_transformers(model, folder)
    return folder


if __name__ == "__main__":
    main()
