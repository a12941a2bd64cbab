"""Colours of videos."""

import keras
from keras import ops

from keras_vivit import validation
from keras_vivit.augmentation import pixels
from keras_vivit.augmentation.base import Augmentation, Data, per_sample
from keras_vivit.types import Config, DType, Regularizer


@keras.saving.register_keras_serializable("keras_vivit")
class RandomColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue, the same in all frames.

    In this order; contrast is that of the whole video, without the frames that a
    `frame_mask` leaves out. Results are clipped to the range of values.

    Args:
        brightness: Float in [0, 1): values are multiplied by `1 - brightness` to
            `1 + brightness`.
        contrast: Float in [0, 1), the same for the distance from the mean brightness.
        saturation: Float in [0, 1), the same for the distance from grey.
        hue: Float in [0, 0.5], the largest turn of colours, of the full circle.
        value_range: Tuple, the lowest and highest value.
        seed: Optional integer.
        name, dtype, trainable, activity_regularizer, autocast: As for all layers.

    Call arguments:
        inputs: Tensor `(batch, frames, height, width, channels)`, or a dictionary with
            `"videos"` and what belongs to them. Saturation and hue need the three
            channels red, green and blue.
        training: Boolean.

    Returns:
        The same structure and shapes.

    Raises:
        ValueError: If videos without colours are to change them.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        value_range: tuple[float, float] = (0, 255),
        seed: int | None = None,
        name: str | None = None,
        dtype: DType = None,
        trainable: bool = True,
        activity_regularizer: Regularizer = None,
        autocast: bool = False,
    ) -> None:
        super().__init__(seed, name, dtype, trainable, activity_regularizer, autocast)
        self.brightness = validation.rate("brightness", brightness)
        self.contrast = validation.rate("contrast", contrast)
        self.saturation = validation.rate("saturation", saturation)
        self.hue = validation.between("hue", hue, 0, 0.5)
        self.value_range = validation.value_range("value_range", value_range)

    def check_shapes(self, shapes: Data) -> None:
        super().check_shapes(shapes)
        channels = shapes["videos"][-1]
        if (self.saturation or self.hue) and channels != 3:
            raise ValueError(
                "`inputs` must have three channels for `saturation` and `hue`. "
                f"Received: channels={channels}"
            )

    def augment(self, data: Data) -> Data:
        low, high = self.value_range
        x, mask = (data["videos"] - low) / (high - low), data.get("frame_mask")
        brightness, contrast, saturation = (
            per_sample(self.uniform(x, 1 - limit, 1 + limit))
            for limit in (self.brightness, self.contrast, self.saturation)
        )
        x = x * brightness
        if self.contrast:
            x = pixels.blend(x, pixels.mean_grey(x, mask), contrast)
        if self.saturation:
            x = pixels.blend(x, pixels.grey(x), saturation)
        if self.hue:
            turn = per_sample(self.uniform(x, -self.hue, self.hue))
            x = pixels.rotate_hue(x, turn)
        return {"videos": low + ops.clip(x, 0, 1) * (high - low)}

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue,
            "value_range": self.value_range,
        }
