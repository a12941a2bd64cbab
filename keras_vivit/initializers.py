"""Tubelet kernels from image kernels, and from kernels of another length."""

from keras_vivit.checkpoints.tubelet_kernels import central_frame, inflate, resample

__all__ = ["central_frame", "inflate", "resample"]
