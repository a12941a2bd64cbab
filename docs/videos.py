"""Draws the pictures of `videos.md`: which frames and crops each rule takes.

python docs/videos.py
"""

from pathlib import Path

import numpy as np
from drawing import Drawing

from keras_vivit.data import sample_clips, three_crops
from keras_vivit.data.sampling import RULES

LENGTH, FRAMES, STRIDE, CLIPS = 60, 8, 4, 2
LEFT, CELL = 150, 9


def clips():
    title = f"The frames of {CLIPS} clips in a video of {LENGTH} frames, by rule"
    height = 44 + 36 * len(RULES)
    picture = Drawing(title, LEFT + CELL * LENGTH + 10, height)
    for frame in range(0, LENGTH, 10):
        picture.text(LEFT + CELL * frame, 18, str(frame), "note")
    for row, rule in enumerate(RULES):
        top = 28 + 36 * row
        picture.text(0, top + 19, rule)
        chosen = sample_clips(LENGTH, FRAMES, STRIDE, CLIPS, rule)
        for k, frames in enumerate(chosen):
            place = LEFT - 1, top + 13 * k - 1
            picture.rectangle(*place, CELL * LENGTH, 13, "frame")
            for frame in frames:
                place = LEFT + CELL * frame, top + 13 * k
                picture.rectangle(*place, CELL - 2, 11, ("key", "query")[k])
    return picture


def crops():
    picture = Drawing("Three crops of a wide frame", 500, 122)
    height, width = 72, 128
    places = np.indices((height, width)).transpose(1, 2, 0)[None]
    corners = three_crops(places, height)[:, 0, 0, 0]
    for k, name in enumerate(("left", "middle", "right")):
        x = 10 + (width + 40) * k
        picture.text(x + width / 2, 20, name, "middle")
        picture.rectangle(x, 32, width, height, "cell")
        picture.rectangle(x + corners[k][1], 32, height, height, "query")
    return picture


def pictures():
    return {"videos-clips.svg": str(clips()), "videos-crops.svg": str(crops())}


if __name__ == "__main__":
    for name, text in pictures().items():
        (Path(__file__).parent / name).write_text(text)
