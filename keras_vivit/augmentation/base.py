"""What all augmentations share."""

from typing import Any

import keras
from keras import ops

from keras_vivit import backends, fast, validation
from keras_vivit.layer import Layer
from keras_vivit.types import Config, DType, Regularizer, Tensor

Data = dict[str, Any]
KEYS = ("videos", "labels", "frame_mask", "segmentation_masks")


class Augmentation(Layer):
    """Takes videos and what belongs to them; subclasses change them in `augment`.

    Pixels, coordinates and soft labels are float32 whatever the dtype policy: half
    precision holds neither the places nor the values of 8-bit voxels. Hence `dtype` and
    `autocast` are there as in every layer, but have no effect.
    """

    needs: tuple[str, ...] = ()
    # What is blended with others, and therefore float32 as the videos.
    blended: tuple[str, ...] = ()

    def __init__(
        self,
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        super().__init__(
            name=name,
            dtype=dtype,
            trainable=trainable,
            activity_regularizer=activity_regularizer,
            autocast=False,
        )
        self.seed = validation.seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def build(self, input_shape: Any) -> None:
        self.check_shapes(_as_dictionary(input_shape))

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if args:  # As `tf.data` has them for tuples.
            raise ValueError(
                "`inputs` must be the only positional argument: labels and masks "
                "belong into a dictionary with the videos. "
                f"Received: {len(args)} more"
            )
        call = super().__call__
        if backends.is_foreign_graph(inputs):  # `tf.data` on another backend
            spec = self.compute_output_spec(_tensors(inputs))
            return backends.call_from_graph(
                lambda arrays: call(arrays, **kwargs), inputs, spec
            )
        return call(inputs, **kwargs)

    def call(self, inputs: Any, training: bool = True) -> Any:
        data = self._checked(inputs)
        for name in self._in_full:
            if name in data:
                data[name] = _cast(data[name], "float32")
        if data["videos"].shape[0] == 0:
            # PyTorch draws no shares for an empty batch, JAX takes nothing from one.
            for name, shape in self.new_shapes(_shapes(data)).items():
                data[name] = ops.zeros(shape, data[name].dtype)
        elif training:
            self.check_values(data)
            data.update(fast.augment(self, data))
        else:
            data.update(self.fit_shapes(data))
        return data if isinstance(inputs, dict) else data["videos"]

    def augment(self, data: Data) -> Data:
        """Returns the entries of `data` that change."""
        raise NotImplementedError

    def fit_shapes(self, data: Data) -> Data:
        """What takes the place of `augment` in inference, where shapes change."""
        return {}

    def new_shapes(self, shapes: Data) -> Data:
        """Returns the shapes that change."""
        return {}

    def check_shapes(self, shapes: Data) -> None:
        """Refuses what is not the shape of `videos`, or does not belong to it."""
        unknown = [name for name in shapes if name not in KEYS]
        if unknown:
            raise ValueError(
                f"`inputs` must have no other keys than {_quoted(KEYS)}, since it is "
                f"unknown how others change. Received: {_quoted(unknown)}"
            )
        needed = ("videos", *self.needs)
        if any(name not in shapes for name in needed):
            raise ValueError(
                f"`inputs` must be a dictionary with {_quoted(needed, ' and ')}, which "
                f"change together. Received: {_quoted(shapes)}, shapes={shapes}"
            )
        video = tuple(shapes["videos"])
        if len(video) != 5 or None in video[1:4]:
            raise ValueError(
                "`inputs` must have the shape (batch, frames, height, width, "
                "channels), with known frames, height and width. "
                f"Received: shape={video}"
            )
        _check_frame_mask(shapes, video)
        _check_segmentation_masks(shapes, video)
        _check_batch(shapes, video)

    def check_dtypes(self, data: Data) -> None:
        """Refuses labels whose dtype says that they are something else."""

    def check_values(self, data: Data) -> None:
        """Refuses wrong labels, where their values can be read."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        shapes = dict(_as_dictionary(input_shape))
        shapes.update(self.new_shapes(shapes))
        return shapes if isinstance(input_shape, dict) else shapes["videos"]

    def compute_output_spec(self, inputs: Any, training: bool = True) -> Any:
        data = self._checked(inputs)
        shapes = self.new_shapes(_shapes(data))
        for name, value in data.items():
            dtype = "float32" if name in self._in_full else None
            data[name] = _tensors(value, dtype, shapes.get(name))
        return data if isinstance(inputs, dict) else data["videos"]

    def get_config(self) -> Config:
        return {**super().get_config(), "seed": self.seed}

    def uniform(self, videos: Tensor, low: float, high: float, n: int = 1) -> Tensor:
        """Random numbers `(batch, n)`."""
        shape = (ops.shape(videos)[0], n)
        return keras.random.uniform(
            shape, low, high, dtype="float32", seed=self.seed_generator
        )

    def _checked(self, inputs: Any) -> Data:
        data = dict(_as_dictionary(inputs))
        self.check_shapes(_shapes(data))
        self.check_dtypes(data)
        return data

    @property
    def _in_full(self) -> tuple[str, ...]:
        return ("videos", *self.blended)


def per_sample(numbers: Tensor, rank: int = 5) -> Tensor:
    """`(batch, 1)` or `(batch,)` to `(batch, 1, ...)` of this rank."""
    return ops.reshape(numbers, (-1, *[1] * (rank - 1)))


def label_shapes(shape: Any) -> list[tuple]:
    """The shapes of labels, which may be a dictionary for several heads."""
    if isinstance(shape, dict):
        return [leaf for value in shape.values() for leaf in label_shapes(value)]
    return [tuple(shape)]


def is_integer(tensor: Tensor) -> bool:
    return "int" in keras.backend.standardize_dtype(tensor.dtype)


def _check_frame_mask(shapes: Data, video: tuple) -> None:
    shape = tuple(shapes.get("frame_mask", video[:2]))
    if len(shape) != 2 or shape[1] != video[1]:
        raise ValueError(
            "`frame_mask` must have the shape (batch, frames). "
            f"Received: shape={shape}, shape of the videos={video}"
        )


def _check_segmentation_masks(shapes: Data, video: tuple) -> None:
    shape = tuple(shapes.get("segmentation_masks", video))
    if len(shape) not in (4, 5) or shape[1:4] != video[1:4]:
        raise ValueError(
            "`segmentation_masks` must have the shape (batch, frames, height, width) "
            "or (batch, frames, height, width, channels) of the videos. "
            f"Received: shape={shape}, shape of the videos={video}"
        )


def _check_batch(shapes: Data, video: tuple) -> None:
    """Other sizes would be broadcast without a word."""
    for name in shapes:
        for shape in label_shapes(shapes[name]):
            if not shape or (None not in (shape[0], video[0]) and shape[0] != video[0]):
                raise ValueError(
                    f"`{name}` must have as many samples as the videos. "
                    f"Received: shape={shape}, shape of the videos={video}"
                )


def _as_dictionary(inputs: Any) -> Data:
    return inputs if isinstance(inputs, dict) else {"videos": inputs}


def _shapes(data: Data) -> Data:
    return keras.tree.map_structure(lambda x: tuple(x.shape), data)


def _tensors(structure: Any, dtype: str | None = None, shape: Any = None) -> Any:
    """Symbolic tensors of their own; a graph may not lead back to its inputs."""
    standard = keras.backend.standardize_dtype
    return keras.tree.map_structure(
        lambda x: keras.KerasTensor(shape or x.shape, dtype or standard(x.dtype)),
        structure,
    )


def _cast(structure: Any, dtype: str) -> Any:
    return keras.tree.map_structure(lambda x: ops.cast(x, dtype), structure)


def _quoted(names: Any, separator: str = ", ") -> str:
    return separator.join(map(repr, names))
