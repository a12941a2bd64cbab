"""Draws the picture of `index.md`: a video, its tubelets, and the grid of tokens.

python docs/tubelets.py
"""

import itertools
from pathlib import Path

from drawing import Drawing

from keras_vivit import TubeletEmbedding

VIDEO_SHAPE = (8, 48, 48, 3)
TUBELET_SIZE = (2, 16, 16)
EMBED_DIM = 64
CHOSEN = (0, 1, 2)  # The tubelet in colour, and its token.
PIXEL, FRAME = 2.25, (5.6, 4.2)  # The size of a pixel; the step from frame to frame.


def place(x, y, point):
    """The corner `(frame, row, column)` of a video, seen obliquely, at `(x, y)`."""
    frame, row, column = point
    return x + column * PIXEL + frame * FRAME[0], y + row * PIXEL - frame * FRAME[1]


def draw_video(drawing, x, y, grid):
    frames, height, width, _ = VIDEO_SHAPE
    p, q, r = TUBELET_SIZE
    t, h, w = grid

    def face(css, *corners):
        drawing.polygon([place(x, y, corner) for corner in corners], css)

    def css(*token):
        return "query" if token == CHOSEN else "cell"

    def draw(i, j, k):
        a, b, c = i * p, j * q, k * r
        if i == 0:
            last = (0, b, c + r), (0, b + q, c + r), (0, b + q, c)
            face(css(i, j, k), (0, b, c), *last)
        if j == 0:
            last = (a, 0, c + r), (a + p, 0, c + r), (a + p, 0, c)
            face(css(i, j, k), (a, 0, c), *last)
        if k == w - 1:
            last = (a, b + q, width), (a + p, b + q, width), (a + p, b, width)
            face(css(i, j, k), (a, b, width), *last)

    tokens = [(i, j, k) for i in range(t) for j in range(h) for k in range(w)]
    for token in sorted(tokens, key=CHOSEN.__eq__):  # Its outline lies on top.
        draw(*token)
    for frame in set(range(frames)) - set(range(0, frames, p)):
        corners = (frame, 0, 0), (frame, 0, width), (frame, height, width)
        points = [place(x, y, corner) for corner in corners]
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            drawing.line(x1, y1, x2, y2, "frame")


def draw_tokens(drawing, x, y, grid):
    """A square for each token, the last frame behind."""
    t, h, w = grid
    p, q, r = TUBELET_SIZE
    for i in reversed(range(t)):
        for j in range(h):
            for k in range(w):
                left, top = place(x, y, (i * p, j * q, k * r))
                css = "query" if (i, j, k) == CHOSEN else "key"
                drawing.rectangle(left + 8, top + 8, 20, 20, css)


def pictures():
    grid = TubeletEmbedding(EMBED_DIM, TUBELET_SIZE).compute_output_shape(
        (None, *VIDEO_SHAPE)
    )[1:4]
    drawing = Drawing(
        "A video is cut into tubelets; each one becomes a token", 400, 226
    )
    y = 52
    draw_video(drawing, 6, y, grid)
    drawing.arrow(176, 90, 216, 90)
    draw_tokens(drawing, 232, y, grid)
    for x, title, *notes in (
        (6, "video", f"shape {VIDEO_SHAPE}", f"tubelets of {TUBELET_SIZE}"),
        (232, "tokens", f"shape {(*grid, EMBED_DIM)}", "one for each tubelet"),
    ):
        drawing.text(x, y + 130, title, "title")
        for i, note in enumerate(notes):
            drawing.text(x, y + 149 + 18 * i, note, "note")
    return {"tubelets.svg": str(drawing)}


def main():
    for name, text in pictures().items():
        Path(__file__).with_name(name).write_text(text)


if __name__ == "__main__":
    main()
