"""What functions need from TensorFlow."""

from typing import Any

import tensorflow as tf


def has_values(tensor: Any) -> bool:
    return tf.executing_eagerly()
