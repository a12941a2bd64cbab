"""Eleven kinds of three-dimensional shapes, so that training runs without any data.

Each kind is a function of the coordinates `(3, n)` in the shape's own frame: negative
inside, positive outside, roughly the distance to the surface.
"""

import numpy as np


def ball(p):
    return np.hypot(radius(p), p[2]) - 1.0


def box(p):
    return np.abs(p).max(axis=0) - 0.8


def cylinder(p):
    return np.maximum(radius(p) - 0.6, np.abs(p[2]) - 1.0)


def cone(p):
    return np.maximum(radius(p) - 0.45 * (1.0 - p[2]), np.abs(p[2]) - 1.0)


def torus(p):
    return np.hypot(radius(p) - 0.8, p[2]) - 0.25


def shell(p):
    return np.abs(ball(p) + 0.15) - 0.15


def cross(p):
    q = np.abs(p)
    middle = np.sort(q, axis=0)[1]
    return np.maximum(middle - 0.25, q.max(axis=0) - 1.0)


def octahedron(p):
    return (np.abs(p).sum(axis=0) - 1.2) / np.sqrt(3.0)


def dumbbell(p):
    ends = np.hypot(radius(p), np.abs(p[2]) - 0.7) - 0.4
    return np.minimum(ends, np.maximum(radius(p) - 0.15, np.abs(p[2]) - 0.7))


def tube(p):
    return np.maximum(np.abs(radius(p) - 0.6) - 0.15, np.abs(p[2]) - 1.0)


def plate(p):
    return np.maximum(radius(p) - 1.0, np.abs(p[2]) - 0.2)


def radius(p):
    return np.hypot(p[0], p[1])


SHAPES = (
    ball,
    box,
    cylinder,
    cone,
    torus,
    shell,
    cross,
    octahedron,
    dumbbell,
    tube,
    plate,
)
NAMES = tuple(shape.__name__ for shape in SHAPES)


def sample(count, size, seed):
    """Draws shapes in random pose, size, place and brightness, under noise.

    Returns:
        Volumes, uint8 `(count, size, size, size, 1)`, and labels, int64 `(count,)`.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(SHAPES))
    axis = np.arange(size, dtype="float32") - (size - 1) / 2
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    volumes = np.stack([draw(SHAPES[label], grid, size, rng) for label in labels])
    return volumes.reshape(count, size, size, size, 1), labels


def draw(shape, grid, size, rng):
    scale = size * rng.uniform(0.28, 0.36)  # half the shape's length, in voxels
    center = size * rng.uniform(-0.05, 0.05, (3, 1))
    points = rotation(rng) @ ((grid - center) / scale).astype("float32")
    inside = np.clip(0.5 - scale * shape(points), 0.0, 1.0)
    dark, contrast = rng.uniform(20, 60), rng.uniform(80, 120)
    noise = rng.standard_normal(inside.shape, dtype="float32") * rng.uniform(5, 20)
    return np.clip(dark + contrast * inside + noise, 0, 255).astype("uint8")


def rotation(rng):
    """A turn by at most 20 degrees: a body lies in a scanner at about one angle."""
    x, y, z = direction = rng.standard_normal(3)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) / np.linalg.norm(direction)
    angle = np.deg2rad(rng.uniform(0, 20))
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn.astype("float32")
