"""The installed package at work, without pytest: `nox -s installed` runs this."""

import pathlib
import re

import numpy as np

import keras_vivit

START_PAGE = pathlib.Path(__file__).parents[1] / "docs/index.md"

page = {}
for block in re.findall(r"^```python\n(.*?)^```$", START_PAGE.read_text(), re.M | re.S):
    exec(block, page)
assert page["probabilities"].shape == (4, 10)

model = page["model"]
model.compile("adam", "sparse_categorical_crossentropy")
history = model.fit(page["videos"], np.arange(4), verbose=0)
assert np.isfinite(history.history["loss"]).all()

organs = keras_vivit.ViViTClassifier.from_preset("vivit_organmnist3d")
volumes = np.random.randint(0, 256, (2, 28, 28, 28, 1))
assert organs.predict(volumes, verbose=0).shape == (2, 11)
