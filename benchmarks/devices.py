"""Processors and GPUs: waiting for them, their memory, what they are called."""

import resource
import sys


class Device:
    """The processor or GPU of a framework, how to wait for it and its memory."""

    def __init__(self, case):
        self.gpu, self.backend = case["device"] == "gpu", case["backend"]
        if self.gpu and not gpu_name(self.backend):
            raise RuntimeError(f"{self.backend} sees no GPU")

    def synchronize(self):
        if not self.gpu:
            return  # Calls return values there, not promises of them.
        match self.backend:
            case "jax":
                import jax

                jax.block_until_ready(jax.live_arrays())
            case "tensorflow":
                import tensorflow

                tensorflow.test.experimental.sync_devices()
            case "torch":
                import torch

                torch.cuda.synchronize()

    def memory(self):
        return self._memory("current", "bytes_in_use", "memory_allocated")

    def peak_memory(self):
        return self._memory("peak", "peak_bytes_in_use", "max_memory_allocated")

    def _memory(self, tensorflow_key, jax_key, torch_function):
        """Bytes of a GPU, or the most that the process has had so far."""
        if not self.gpu:
            unit = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        match self.backend:
            case "jax":
                import jax

                return jax.local_devices()[0].memory_stats()[jax_key]
            case "tensorflow":
                import tensorflow

                information = tensorflow.config.experimental.get_memory_info("GPU:0")
                return information[tensorflow_key]
            case "torch":
                import torch

                return getattr(torch.cuda, torch_function)()


def gpu_name(backend):
    """Returns what a framework calls its GPU, or None if it sees none."""
    match backend:
        case "jax":
            import jax

            devices = [d for d in jax.devices() if d.platform == "gpu"]
            return devices[0].device_kind if devices else None
        case "tensorflow":
            import tensorflow

            devices = tensorflow.config.list_physical_devices("GPU")
            details = map(tensorflow.config.experimental.get_device_details, devices)
            return next((d.get("device_name", "GPU") for d in details), None)
        case "torch":
            import torch

            return torch.cuda.get_device_name() if torch.cuda.is_available() else None
