"""Which frames and crops of a video a model sees, exactly as in other projects.

The rules differ in how far clips reach, in rounding, and in what follows the last
frame. A model reaches its published accuracy only with the rule of its authors.
"""

import numpy as np

from keras_vivit import validation
from keras_vivit.types import Shape

RULES = (
    "scenic",
    "slowfast",
    "mmaction2",
    "mmaction2_uniform",
    "mmaction2_dense",
    "videomae",
    "videomae_segments",
)


def sample_clips(
    length: int,
    num_frames: int,
    stride: int = 1,
    num_clips: int = 1,
    rule: str = "scenic",
    training: bool = False,
    fps: float = 30,
    target_fps: float = 30,
    seed: int | np.random.Generator | None = None,
) -> np.ndarray:
    """Chooses the frames of one or several clips of a video.

    For tests, clips lie where the rule puts them; for training, at random, each one by
    itself. In short videos frames are repeated: from the start (Scenic, mmaction2), or
    the last one (SlowFast, VideoMAE).

    Args:
        length: Integer, frames of the video.
        num_frames: Integer, frames of a clip.
        stride: Integer, distance of a clip's frames in the video. The rules
            `"mmaction2_uniform"` and `"videomae_segments"` spread a clip over the whole
            video, whatever the stride.
        num_clips: Integer. For `"mmaction2_dense"`, the number of start positions:
            mmaction2's `num_clips` are the frames here, its `sample_range` is
            `num_frames * stride`.
        rule: One of `"scenic"`, `"slowfast"`, `"mmaction2"` (`SampleFrames`),
            `"mmaction2_uniform"` (`UniformSample`), `"mmaction2_dense"`
            (`DenseSampleFrames`), `"videomae"` (Kinetics), `"videomae_segments"`
            (Something-Something).
        training: Boolean, whether clips are drawn at random.
        fps: Number, the video's frames per second, for `"slowfast"` alone.
        target_fps: Number, the rate at which `stride` counts frames, for `"slowfast"`
            alone.
        seed: Integer or `numpy.random.Generator`, for training. `None` draws other
            clips in each call.

    Returns:
        Array `(num_clips, num_frames)`, int64, indices of frames.

    Raises:
        ValueError: If a number is not positive, or the rule is none of these.

    Example:
    >>> keras_vivit.data.sample_clips(100, num_frames=4, stride=8, num_clips=3)
    array([[ 0,  8, 16, 24],
           [34, 42, 50, 58],
           [68, 76, 84, 92]])

    Reference:
        [Scenic](https://github.com/google-research/scenic),
        [SlowFast](https://github.com/facebookresearch/SlowFast),
        [mmaction2](https://github.com/open-mmlab/mmaction2),
        [VideoMAE](https://github.com/MCG-NJU/VideoMAE)
    """
    for name, value in (
        ("length", length),
        ("num_frames", num_frames),
        ("stride", stride),
        ("num_clips", num_clips),
    ):
        validation.positive_int(name, value, validation.MOST_FRAMES)
    validation.elements(
        validation.MOST_FRAMES, num_clips=num_clips, num_frames=num_frames
    )
    training = validation.boolean("training", training)
    for name, rate in (("fps", fps), ("target_fps", target_fps)):
        validation.positive_number(name, rate)
    validation.choice("rule", rule, RULES)
    generator = validation.generator(seed)
    rng = generator if training else None
    if rule == "slowfast":
        span = stride * num_frames / target_fps * fps
        return _slowfast(length, num_frames, num_clips, span, rng).astype("int64")
    frames = _FUNCTIONS[rule](length, num_frames, stride, num_clips, rng)
    return frames.astype("int64")


# === The rules: L frames, n in a clip, stride s, K clips ===


def _scenic(
    length: int, n: int, stride: int, clips: int, rng: np.random.Generator | None
) -> np.ndarray:
    if rng is not None:
        starts = rng.integers(max(length - (n - 1) * stride, 1), size=clips)
    else:
        space = max(0, length - n * stride)
        starts = np.array([space // 2]) if clips == 1 else _linspace(space, clips)
    return _strided(starts, n, stride) % length


def _linspace(stop: int, number: int) -> np.ndarray:
    """`tf.linspace(0, stop, number)`, which computes in float32, rounded down."""
    step = np.float32(stop) / np.float32(number - 1)
    values = step * np.arange(number, dtype="float32")
    values[-1] = stop
    return values.astype("int64")


def _strided(starts: np.ndarray, n: int, stride: int) -> np.ndarray:
    return np.asarray(starts)[:, None] + stride * np.arange(n)


def _slowfast(
    length: int, n: int, clips: int, span: float, rng: np.random.Generator | None
) -> np.ndarray:
    space = max(length - span, 0)
    if rng is not None:
        starts = rng.uniform(0, space, clips)
    else:
        starts = space * np.arange(clips) / clips
    frames = [_torch_linspace(start, start + span - 1, n) for start in starts]
    return np.clip(frames, 0, length - 1)


def _torch_linspace(
    start: float | np.float32, stop: float | np.float32, number: int
) -> np.ndarray:
    """`torch.linspace` on CPUs, to the last bit: float32, from both ends."""
    start, stop = np.float32(start), np.float32(stop)
    if number == 1:
        return np.array([start])
    step = float((stop - start) / np.float32(number - 1))
    i = np.arange(number)
    # Computed in float64, and rounded once, as fused multiply-add does.
    rising, falling = float(start) + step * i, float(stop) - step * i[::-1]
    return np.where(i < number // 2, rising, falling).astype("float32")


def _mmaction2(
    length: int, n: int, stride: int, clips: int, rng: np.random.Generator | None
) -> np.ndarray:
    if rng is not None:
        starts = _mmaction2_train(length, n * stride, clips, rng)
    else:
        space = max(length - ((n - 1) * stride + 1), 0)
        if clips == 1:
            starts = np.array([space // 2])
        else:
            starts = np.round(np.arange(clips) * (space / (clips - 1)))
    return _strided(starts, n, stride) % length


def _mmaction2_train(
    length: int, span: int, clips: int, rng: np.random.Generator
) -> np.ndarray:
    average = (length - span + 1) // clips
    if average > 0:
        return np.arange(clips) * average + rng.integers(average, size=clips)
    if length > max(clips, span):
        return np.sort(rng.integers(length - span + 1, size=clips))
    if average == 0:
        return np.round(np.arange(clips) * ((length - span + 1) / clips))
    return np.zeros(clips)


def _mmaction2_uniform(
    length: int, n: int, stride: int, clips: int, rng: np.random.Generator | None
) -> np.ndarray:
    segment = (length - 1) / n
    bounds = np.round(segment * np.arange(n + 1)).astype("int64")
    if rng is not None:
        return rng.integers(bounds[:-1], bounds[1:] + 1, size=(clips, n))
    shifts = (segment / (clips + 1) * np.arange(1, clips + 1)).astype("int64")
    return bounds[:-1] + shifts[:, None]


def _mmaction2_dense(
    length: int, n: int, stride: int, clips: int, rng: np.random.Generator | None
) -> np.ndarray:
    positions = max(1, 1 + length - n * stride)
    if rng is not None:
        starts = rng.integers(max(positions - 1, 1), size=clips)
    else:
        starts = np.linspace(0, positions - 1, clips, dtype=int)
    return _strided(starts, n, stride) % length


def _videomae(
    length: int, n: int, stride: int, clips: int, rng: np.random.Generator | None
) -> np.ndarray:
    if rng is not None:
        return np.stack([_videomae_train(length, n, stride, rng) for _ in range(clips)])
    frames = np.arange(0, length, stride)
    frames = np.pad(frames, (0, max(n - len(frames), 0)), "edge")
    step = max((len(frames) - n) / max(clips - 1, 1), 0)
    starts = (np.arange(clips) * step).astype("int64")
    return frames[_strided(starts, n, 1)]


def _videomae_train(
    length: int, n: int, stride: int, rng: np.random.Generator
) -> np.ndarray:
    span = n * stride
    if length <= span:
        frames = np.linspace(0, length, length // stride)
        frames = np.pad(frames, (0, n - len(frames)), constant_values=length)
        return np.clip(frames, 0, length - 1).astype("int64")
    end = rng.integers(span, length)
    return np.clip(np.linspace(end - span, end, n), end - span, end - 1).astype("int64")


def _videomae_segments(
    length: int, n: int, stride: int, clips: int, rng: np.random.Generator | None
) -> np.ndarray:
    if rng is not None:
        return _videomae_segments_train(length, n, clips, rng)
    tick, i = length / n, np.arange(n)
    frames = np.concatenate([tick / 2 + tick * i, tick * i]).astype("int64")
    # The authors take two clips; more of them repeat one frame.
    views = max(clips, 2)
    frames = np.sort(np.pad(frames, (0, n * (views - 2)), "edge"))
    return np.stack([frames[k::views] for k in range(clips)])


def _videomae_segments_train(
    length: int, n: int, clips: int, rng: np.random.Generator
) -> np.ndarray:
    if segment := length // n:
        return np.arange(n) * segment + rng.integers(segment, size=(clips, n))
    return np.zeros((clips, n))


_FUNCTIONS = {
    "scenic": _scenic,
    "mmaction2": _mmaction2,
    "mmaction2_uniform": _mmaction2_uniform,
    "mmaction2_dense": _mmaction2_dense,
    "videomae": _videomae,
    "videomae_segments": _videomae_segments,
}


# === Crops ===


def three_crops(
    video: np.ndarray, size: int | Shape, rule: str = "scenic"
) -> np.ndarray:
    """Cuts three crops out of a video, spread along its longer side.

    Args:
        video: Array `(frames, height, width, channels)`.
        size: `(height, width)` of the crops, or an integer for both.
        rule: As for `sample_clips`; rules differ by a pixel, and mmaction2 puts the
            middle crop last.

    Returns:
        Array `(3, frames, height, width, channels)`: left, middle and right, or top,
        middle and bottom.

    Raises:
        ValueError: If the crops exceed the video, or the rule is unknown.

    Example:
    >>> keras_vivit.data.three_crops(np.zeros((8, 256, 340, 3)), 224).shape
    (3, 8, 224, 224, 3)
    """
    validation.choice("rule", rule, RULES)
    sides = (size, size) if not isinstance(size, list | tuple) else size
    sides = validation.positive_ints("size", sides, ("height", "width"))
    validation.tensors("video", video)
    if np.ndim(video) != 4:
        raise ValueError(
            "`video` must have the shape (frames, height, width, channels). "
            f"Received: shape={np.shape(video)}"
        )
    shape = video.shape[1:3]
    if sides[0] > shape[0] or sides[1] > shape[1]:
        raise ValueError(
            f"`size` must not exceed the video, {shape[0]} x {shape[1]}. "
            f"Received: size={size}"
        )
    crops = [
        video[:, top : top + sides[0], left : left + sides[1]]
        for top, left in _corners(shape, sides, rule)
    ]
    return np.stack(crops)


def _corners(shape: Shape, size: Shape, rule: str) -> list[tuple[int, int]]:
    """Returns three pairs of top and left."""
    project = rule.partition("_")[0]
    spaces = [shape[0] - size[0], shape[1] - size[1]]
    # Of a square, VideoMAE cuts rows, and mmaction2 what is left; Scenic cuts columns.
    if project == "videomae":
        rows = shape[0] >= shape[1]
    elif project == "mmaction2":
        rows = spaces[0] > spaces[1]
    else:
        rows = shape[0] > shape[1]
    along, across = spaces if rows else spaces[::-1]
    match project:
        case "mmaction2":
            places, other = (0, 2 * (along // 2), along // 2), across // 2
        case "videomae":
            places, other = (0, int(along / 2), along), across // 2
        case _:
            places, other = (0, -(-along // 2), along), -(-across // 2)
    return [(place, other) if rows else (other, place) for place in places]
