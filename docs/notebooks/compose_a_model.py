# %% [markdown]
# # Compose a model
#
# The layers of keras-vivit keep tokens on a grid `(t, h, w)`, and Keras' own layers
# join on. Here they become a model that no preset is: for each pixel of a video it says
# whether it belongs to a disc that moves to the left, or to one that moves to the
# right. A single frame cannot tell.

# %%
# %pip install -q "keras-vivit[torch]" matplotlib

# %% [markdown]
# Keras takes its backend from `KERAS_BACKEND` when it is imported: `"torch"`, `"jax"`
# or `"tensorflow"`.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import keras_vivit as kv

keras.utils.set_random_seed(0)
print(f"Keras {keras.__version__} on {keras.backend.backend()}")

# %% [markdown]
# ## Videos
#
# Eight frames of 32 x 32 noisy pixels, with two equal discs. Each pixel has a class: 0
# is background, 1 moves to the left, 2 to the right.

# %%
FRAMES, SIZE = 8, 32


def moving_discs(count, rng):
    t, y, x = np.indices((FRAMES, SIZE, SIZE))
    classes = np.zeros((count, FRAMES, SIZE, SIZE), "int32")
    for video in classes:
        for label, speed in ((1, -2), (2, 2)):
            center = rng.uniform(10, 22) + speed * (t - FRAMES / 2)
            row = rng.uniform(6, 26)
            video[(x - center) ** 2 + (y - row) ** 2 < 16] = label
    videos = (classes > 0) + rng.normal(scale=0.3, size=classes.shape)
    return videos[..., None].astype("float32"), classes


rng = np.random.default_rng(0)
videos, classes = moving_discs(256, rng)
new_videos, new_classes = moving_discs(32, rng)
print(videos.shape, classes.shape)

# %% [markdown]
# ## Tokens on a grid
#
# `TubeletEmbedding` cuts a video into boxes of 2 frames of 8 x 8 pixels, and makes each
# of them a token. Positions and blocks keep the grid, so no layer has to be told it.

# %%
tubelet = (2, 8, 8)
video = keras.Input((FRAMES, SIZE, SIZE, 1))
x = kv.TubeletEmbedding(embed_dim=64, tubelet_size=tubelet)(video)
x = kv.PositionalEncoder("factorized")(x)
for _ in range(2):  # Attention among the tokens of one time, then of one place.
    x = kv.FactorizedSelfAttentionBlock(num_heads=4, mlp_dim=128)(x)
tokens = keras.layers.LayerNormalization(epsilon=1e-6)(x)
print(tokens.shape)

# %% [markdown]
# ## A head for each pixel
#
# A transposed convolution turns the tokens back into their boxes; fine detail goes
# around them, straight from the video.

# %%
x = keras.layers.Conv3DTranspose(8, tubelet, strides=tubelet, activation="relu")(tokens)
x = keras.layers.Concatenate()([x, video])
x = keras.layers.Conv3D(3, 3, padding="same", activation="softmax")(x)
model = keras.Model(video, x)
model.summary()

# %% [markdown]
# ## Training
#
# As with every Keras model. With PyTorch it takes less than a minute on a CPU.

# %%
model.compile(keras.optimizers.AdamW(3e-3), "sparse_categorical_crossentropy")
history = model.fit(videos, classes, batch_size=16, epochs=12, verbose=2)

# %% [markdown]
# ## What it sees
#
# On new videos: the overlap with the true disc, as intersection over union.

# %%
predicted = model.predict(new_videos, verbose=0).argmax(axis=-1)
for label, name in ((1, "left"), (2, "right")):
    found, true = predicted == label, new_classes == label
    print(f"{name}: {(found & true).sum() / (found | true).sum():.2f}")

# %% [markdown]
# Orange moves to the left, blue to the right. The last row is the answer to the same
# video played backwards, in the order of the rows above: the colours change places.

# %%
backwards = model.predict(new_videos[:1, ::-1], verbose=0).argmax(axis=-1)
rows = {
    "video": new_videos[0, ..., 0],
    "true": new_classes[0],
    "predicted": predicted[0],
    "backwards": backwards[0, ::-1],
}
colours = ListedColormap(["0.1", "tab:orange", "tab:blue"])
figure, axes = plt.subplots(4, FRAMES, figsize=(10, 5.4), layout="constrained")
for (name, frames), row in zip(rows.items(), axes, strict=True):
    row[0].set_ylabel(name)
    look = {"cmap": "gray"} if name == "video" else {"cmap": colours, "vmax": 2}
    for frame, axis in zip(frames, row, strict=True):
        axis.imshow(frame, **look)
        axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# From here: other blocks in place of `FactorizedSelfAttentionBlock`, a `Dense` layer
# for one answer per token, or `TokenPooling` for one per video.
