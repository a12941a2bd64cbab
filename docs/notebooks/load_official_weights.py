# %% [markdown]
# # Load official weights
#
# The authors of ViViT published the weights of models trained on Kinetics-400, 400
# kinds of human action. Here ViViT-B/16x2 names what happens in a clip, first at its
# own size, then at a smaller one, and learns a new task.

# %%
# %pip install -q "keras-vivit[torch,hf]" matplotlib

# %% [markdown]
# The file of these weights is in PyTorch's format, so PyTorch has to be installed; the
# model runs on any backend that `KERAS_BACKEND` names.

# %%
import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import matplotlib.pyplot as plt
import numpy as np
from huggingface_hub import hf_hub_download

import keras_vivit as kv

keras.utils.set_random_seed(0)
print(f"Keras {keras.__version__} on {keras.backend.backend()}")

# %% [markdown]
# ## The model
#
# 356 MB, downloaded once. The checkpoint says what it is: 32 frames of 224 x 224
# pixels, 12 layers, 400 classes.

# %%
SOURCE = "hf://google/vivit-b-16x2-kinetics400"
model = kv.ViViTClassifier.from_preset(SOURCE)
print(f"{model.input_shape} to {model.output_shape}")
print(f"{model.count_params():,} parameters")

# %% [markdown]
# ## A clip, and the names of the classes
#
# Every fourth frame, or so, of a video of Kinetics-400. The model takes raw pixels, 0
# to 255: their rescaling is its first layer.

# %%
clip = np.load(
    hf_hub_download(
        "hf-internal-testing/spaghetti-video",
        "eating_spaghetti_32_frames.npy",
        repo_type="dataset",
    )
)  # (32, 360, 640, 3)
names = json.loads(
    Path(
        hf_hub_download(
            "huggingface/label-files", "kinetics400-id2label.json", repo_type="dataset"
        )
    ).read_text()
)


def resize(frames, size):
    square = keras.ops.image.resize(
        frames.astype("float32"), (size, size), crop_to_aspect_ratio=True
    )
    return keras.ops.convert_to_numpy(square)


figure, axes = plt.subplots(1, 4, figsize=(10, 2.6), layout="constrained")
for frame, axis in zip(resize(clip, 224)[::8], axes, strict=True):
    axis.imshow(frame.astype("uint8"))
    axis.axis("off")
plt.show()

# %% [markdown]
# ## What happens here?
#
# 3,136 tokens that all attend to each other, 455 GFLOPs: some seconds on a CPU.


# %%
def show(probabilities):
    for index in probabilities.argsort()[:-6:-1]:
        print(f"{probabilities[index]:6.1%}  {names[str(index)]}")


show(model.predict(resize(clip, 224)[None], verbose=0)[0])

# %% [markdown]
# ## Fewer frames, smaller pictures
#
# The same weights on another grid: the position table is resampled. With 16 frames of
# 112 x 112 pixels there are 392 tokens, and the answer comes at once.

# %%
small = kv.ViViTClassifier.from_preset(SOURCE, video_shape=(16, 112, 112, 3))
show(small.predict(resize(clip[::2], 112)[None], verbose=0)[0])

# %% [markdown]
# ## A new task
#
# Is a video upside down? Windows of 8 frames of 64 x 64 pixels, those of the last 12
# frames for validation.

# %%
frames = resize(clip, 80)


def windows(frames, count, rng):
    labels = np.arange(count) % 2
    videos = np.empty((count, 8, 64, 64, 3), "float32")
    for video, label in zip(videos, labels, strict=True):
        t, y, x = rng.integers((len(frames) - 7, 17, 17))
        window = frames[t : t + 8, y : y + 64, x : x + 64]
        video[:] = window[:, ::-1] if label else window
    return videos, labels


rng = np.random.default_rng(0)
train, validation = windows(frames[:20], 64, rng), windows(frames[20:], 32, rng)

# %% [markdown]
# With another number of classes the head is new, and a warning says so. It learns
# alone: the backbone is frozen.

# %%
tuned = kv.ViViTClassifier.from_preset(
    SOURCE, video_shape=(8, 64, 64, 3), num_classes=2
)
tuned.backbone.trainable = False
tuned.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
tuned.fit(*train, batch_size=8, epochs=3, validation_data=validation, verbose=2)

# %% [markdown]
# `tuned.enable_lora(4)` in place of the frozen backbone trains small adapters in it,
# too.
#
# ## Scenic's own files
#
# All official checkpoints, those of the factorised encoder among them, are files of
# Scenic. `keras-vivit[scenic]` reads them; what they do not tell is the size of their
# videos:
#
# ```python
# path = keras.utils.get_file(
#     "vivit_base_16x2_fe",
#     "https://storage.googleapis.com/scenic-bucket/vivit/kinetics_400/"
#     "vivit_base_16x2_fe/checkpoint",
# )
# model = kv.ViViTClassifier.from_preset(path, video_shape=(32, 224, 224, 3))
# ```
