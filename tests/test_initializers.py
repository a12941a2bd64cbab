"""Tubelet kernels from image kernels."""

import numpy as np
import pytest
from helpers import normal

from keras_vivit import initializers

KERNEL = normal(3, 2, 1, 4)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_central_frame_holds_the_image_kernel(frames):
    tubelet = initializers.central_frame(KERNEL, frames)
    assert tubelet.shape == (frames, *KERNEL.shape)
    np.testing.assert_array_equal(tubelet[frames // 2], KERNEL)
    assert np.count_nonzero(tubelet) == np.count_nonzero(KERNEL)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_inflation_spreads_the_image_kernel_evenly(frames):
    tubelet = initializers.inflate(KERNEL, frames)
    expected = np.broadcast_to(KERNEL / frames, (frames, *KERNEL.shape))
    np.testing.assert_allclose(tubelet, expected, rtol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_resampling_keeps_the_sum_over_time(frames):
    kernel = normal(3, *KERNEL.shape)
    resampled = initializers.resample(kernel, frames)
    assert resampled.shape == (frames, *KERNEL.shape)
    np.testing.assert_allclose(resampled.sum(axis=0), kernel.sum(axis=0), atol=1e-6)
    if frames == 3:
        np.testing.assert_array_equal(resampled, kernel)


def test_wrong_length_is_refused():
    with pytest.raises(ValueError, match=r"`frames` must be a positive.*frames=0"):
        initializers.inflate(KERNEL, 0)
