"""The Keras side: files, batches, model, optimizer, training and prediction."""

import shutil
import warnings
from typing import NamedTuple

import keras
import numpy as np
from common import processes
from common.batches import RepeatableBatches
from common.command_line import InputError
from common.devices import fill_up
from common.fitting import fit
from common.resuming import reseed

from keras_vivit import ViViTBackbone, ViViTClassifier, augmentation
from keras_vivit.data import VideoFolder, listing
from video import frozen

SCRATCH = {
    "embed_dim": 96,
    "num_layers": 4,
    "num_temporal_layers": 2,
    "num_heads": 4,
    "mlp_dim": 384,
    "drop_path_rate": 0.1,
    "rescaling": (1 / 127.5, -1.0),
}
LOSS = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
# Of a clip or volume, unless a checkpoint tells: frames, size, tubelets along t, h, w.
VIDEO = {"frames": 16, "size": 64, "grid": (4, 8, 8), "flip": ["width"]}
IMAGE = {**VIDEO, "size": 112}
VOLUME = {"frames": 28, "size": 28, "grid": (5, 5, 5), "flip": []}


class Sets(NamedTuple):
    """The files of each split, as `VideoFolder`; `tested` says which one `test` is."""

    train: VideoFolder
    validation: VideoFolder
    test: VideoFolder
    tested: str


# === Files ===


def complete(configuration):
    """Fills in the settings that depend on the files, or on the checkpoint."""
    items = listing.list_items(configuration["data_path"], ())
    volumes = listing.all_volumes(items)
    if volumes != (configuration["window"] is not None):
        kind = "volumes" if volumes else "videos"
        raise InputError(
            "`--window` must be given for volumes, and for nothing else: the values "
            "that become 0 and 255, such as -160 240 for soft tissue in CT. Received: "
            f"--window {configuration['window']} for {kind}."
        )
    named = {item.split for item in items}
    configuration["splits"] = sorted(str(name) for name in named)
    defaults = VOLUME if volumes else IMAGE if configuration["image_vit"] else VIDEO
    if source := configuration["checkpoint"] or configuration.get("init"):
        defaults = {**defaults, **settings_of(source, configuration)}
    for name, value in defaults.items():
        if configuration.get(name) is None:
            configuration[name] = value
    configuration.setdefault("channels", 1 if volumes else 3)
    configuration["stride"] = configuration["stride"] or 1


def settings_of(source, configuration):
    """Returns a checkpoint's variant, and the size and sampling of its videos."""
    shape = shape_of({"channels": 1 if configuration["window"] else 3, **configuration})
    known = {"video_shape": shape} if None not in shape else {}
    model = ViViTBackbone.from_preset(source, **known)
    frames, *size, channels = model.input_shape[1:]
    sampling = getattr(model, "sampling", None) or {}
    return {
        "variant": model.variant,
        "frames": frames,
        "size": size,
        "channels": channels,
        **{name: sampling.get(name) for name in ("stride", "fps")},
    }


def shape_of(configuration):
    height, width = np.broadcast_to(configuration["size"], 2).tolist()
    return configuration["frames"], height, width, configuration["channels"]


def read(configuration, label_mode="categorical"):
    """Returns the `Sets` of a folder."""
    splits = configuration["splits"]
    held_out = 0 if "validation" in splits else configuration["validation_split"]
    options = {
        "video_shape": shape_of(configuration),
        "validation_split": held_out,
        "batch_size": configuration["batch_size"],
        "stride": configuration["stride"],
        "target_fps": configuration["fps"],
        "window": configuration["window"],
        "label_mode": label_mode,
        "classes": configuration["classes"],
        "seed": configuration["seed"],
        "cache_bytes": int(configuration["cache"] * 2**30),
        "on_error": "skip",
        "share": (processes.index(), processes.count()),
        "gather": processes.gather,
    }
    folder = configuration["data_path"]
    balanced = configuration["balanced"]
    train = VideoFolder(folder, split="train", balanced=balanced, **options)
    validation = VideoFolder(folder, split="validation", **options)
    test = validation
    if label_mode and "test" in splits:
        test = VideoFolder(folder, split="test", **options)
    if label_mode and len(train.class_names) < 2:
        raise InputError(
            f"FOLDER must hold two classes or more. Received: {train.class_names}."
        )
    if share := configuration.get("train_share"):
        keep_share(train, share)
    return Sets(train, validation, test, "test" if "test" in splits else "validation")


def keep_share(source, share):
    """Leaves a `VideoFolder` a share of the files of each class, one or more."""
    classes = source.labels.argmax(axis=1)
    order = np.random.default_rng(source.seed).permutation(len(classes))
    rows = []
    for label in np.unique(classes):
        files = order[classes[order] == label]
        rows.extend(files[: max(round(share * len(files)), 1)])
    rows = np.sort(rows)
    source.files = [source.files[row] for row in rows]
    source.facts = [source.facts[row] for row in rows]
    source.labels = source.labels[rows]


class AugmentedClips(RepeatableBatches):
    """Batches of a `VideoFolder`, all of one size, changed anew in every epoch.

    Args:
        source: `VideoFolder`.
        augment: List of layers from `keras_vivit.augmentation`.
    """

    def __init__(self, source, augment):
        super().__init__(source.seed)
        self.source, self.augment = source, augment

    def __len__(self):
        return len(self.source)

    def make(self, epoch, index):
        if epoch != self.source.epoch:
            self.source.start_epoch(epoch)
        # With one shape for all batches, a step is compiled once. The rows of other
        # processes stay empty: random numbers do not depend on how many there are.
        parts = map(self.whole, self.source[index])
        batch = dict(zip(("videos", "labels"), parts, strict=False))
        states = [layer.seed_generator.state for layer in self.augment]
        reseed(states, (self.seed, epoch, index))
        for layer in self.augment:
            batch = layer(batch, training=True)
        rows = processes.rows(self.source.batch_size)
        return tuple(batch[name][rows] for name in batch)

    def whole(self, part):
        size = self.source.batch_size
        if processes.count() == 1:
            return fill_up(part, size)
        batch = np.zeros((size, *part.shape[1:]), part.dtype)
        batch[processes.rows(size)] = part
        return batch


class WeightedClips(keras.utils.PyDataset):
    """A process's share of a `VideoFolder`; rows that fill up a batch weigh nothing.

    The others weigh so much more that losses are those of the files.
    """

    def __init__(self, source):
        super().__init__()
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        size, files = self.source.batch_size, len(self.source.files)
        real = np.arange(size) < files - index * size
        weights = (real * len(self) * size / files).astype("float32")
        return *self.source[index], weights[processes.rows(size)]


def layers_for(configuration):
    flips = [augmentation.RandomFlip(axis) for axis in configuration["flip"]]
    if configuration["window"]:
        return [
            *flips,
            augmentation.RandomAffine(rotation=15, scale=0.15, shift=0.1),
            augmentation.RandomIntensity(gain=0.2, offset=0.1, gamma=0.3, noise=0.05),
        ]
    return [
        *flips,
        augmentation.RandomResizedCrop(shape_of(configuration)[1:3], scale=(0.5, 1.0)),
        augmentation.RandomColorJitter(0.3, 0.3, 0.3),
    ]


# === Model and optimizer ===


def build(configuration, sets):
    """Returns the compiled model; the same seed gives the same weights."""
    keras.utils.set_random_seed(configuration["seed"])
    names = list(sets.train.class_names)
    head = {"num_classes": len(names), "class_names": names}
    shape = shape_of(configuration)
    variant = configuration["variant"]
    if source := configuration["checkpoint"] or configuration.get("init"):
        if "init" in configuration:  # Pre-training drops no paths.
            head["drop_path_rate"] = SCRATCH["drop_path_rate"]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The checkpoint's head")
            model = ViViTClassifier.from_preset(source, video_shape=shape, **head)
    elif source := configuration["image_vit"]:
        backbone = ViViTBackbone.from_image_preset(source, shape, variant=variant)
        model = with_head(backbone, **head)
    else:
        tubelet_size, strides = tubelets_of(configuration)
        model = ViViTClassifier(
            shape,
            tubelet_size=tubelet_size,
            strides=strides,
            variant=variant,
            seed=configuration["seed"],
            **SCRATCH,
            **head,
        )
    model.backbone.trainable = True
    if configuration["frozen"]:
        for layer in model.backbone.layers:
            # An image model has no temporal encoder: that of variant 2 is random.
            from_image = configuration["image_vit"] is not None
            layer.trainable = from_image and layer.name.startswith("temporal")
    return model


def tubelets_of(configuration):
    """Returns the tubelet size and the strides that make a clip a grid of tokens."""
    axes = list(zip(shape_of(configuration)[:3], configuration["grid"], strict=True))
    strides = tuple(max(n // parts, 1) for n, parts in axes)
    # Tubelets overlap where the grid does not divide the clip: all pixels count.
    tubelet_size = tuple(
        n - (parts - 1) * step for (n, parts), step in zip(axes, strides, strict=True)
    )
    return tubelet_size, strides


def with_head(backbone, **head):
    """Returns a classifier with the weights of a backbone."""
    config = backbone.get_config()
    for name in ("name", "trainable"):
        config.pop(name)
    model = ViViTClassifier(**config, **head)
    model.backbone.set_weights(backbone.get_weights())
    return model


def compile_model(model, configuration, steps, loss=LOSS):
    """Compiles with AdamW, warm-up and cosine decay; kernels alone decay."""
    epochs = configuration["epochs"]
    warmup = -(-epochs // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(epochs - warmup, 1) * steps,
        warmup_target=configuration["learning_rate"],
        warmup_steps=warmup * steps,
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.05, clipnorm=1.0)
    optimizer.exclude_from_weight_decay(var_names=["^(?!.*kernel)"])
    model.compile(optimizer, loss, weighted_metrics=["accuracy"] if loss else None)
    # Otherwise TensorFlow traces the first step twice, and a resumed model has no
    # optimizer variables to load.
    model.optimizer.build(model.trainable_variables)


# === Training ===


def train(model, sets, configuration, folder, verbose=False):
    """Trains, or resumes training, and saves the epoch to keep in `preset`."""
    describe(model, sets, configuration)
    with processes.local():
        augment = layers_for(configuration)
    batches = AugmentedClips(sets.train, augment)
    validation, trained = sets.validation, model
    if processes.count() > 1:
        validation = WeightedClips(validation)
    if configuration["frozen"]:
        trained = frozen.divide(model)[1]
        batches, validation = frozen.features(model, batches, sets.validation, folder)
    compile_model(trained, configuration, len(batches))
    fit(
        trained,
        batches,
        validation,
        folder,
        epochs=configuration["epochs"],
        patience=configuration["patience"],
        verbose=verbose,
    )
    if processes.index() == 0:
        model.save_to_preset(folder / "preset", sampling_of(configuration))
        shutil.rmtree(folder / "checkpoints")
        frozen.clean_up(folder)
    processes.gather(None)


def sampling_of(configuration):
    """Returns what a predictor must know: how clips were taken from files."""
    if configuration["window"]:
        return {"window": configuration["window"], "orientation": "RAS"}
    sampling = {"stride": configuration["stride"], "rule": "scenic"}
    return sampling | ({"fps": fps} if (fps := configuration["fps"]) else {})


def describe(model, sets, configuration):
    """Prints what is trained, on what, and for how long."""
    stops = " at most" if configuration["patience"] is not None else ""
    kind = "volumes" if sets.train.volumes else "videos"
    trained = sum(int(np.prod(w.shape)) for w in model.trainable_variables)
    print(
        f"Training a ViViT ({model.backbone.variant}, {trained:,} of "
        f"{model.count_params():,} weights)\n"
        f"on {len(sets.train.files)} {kind} for {configuration['epochs']} epochs{stops}"
        f", validated on {len(sets.validation.files)}.",
        flush=True,
    )


# === Prediction ===


def predict(model, files):
    """Returns class probabilities for the middle of each file, `(n, num_classes)`."""
    probabilities = np.asarray(model.predict(files, verbose=0), "float32")
    if processes.count() == 1:
        return probabilities
    batches = probabilities.reshape(len(files), -1, probabilities.shape[-1])
    whole = np.concatenate(processes.gather(batches), axis=1)
    return whole.reshape(-1, probabilities.shape[-1])[: len(files.files)]
