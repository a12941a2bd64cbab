"""One progress line for a whole training, with the time that is left."""

import sys
import time

import keras

from common.command_line import duration


class ProgressLine(keras.callbacks.Callback):
    """Shows the epoch, the validation accuracy (or loss) and the time left on one line.

    After the first epoch it says how long the whole training will take. On a terminal
    the line is rewritten twice a second; elsewhere one line is printed for each tenth
    of the epochs.

    Args:
        stream: Text stream, by default the standard output.
    """

    def __init__(self, stream=None):
        super().__init__()
        self.stream = stream or sys.stdout
        self.rewrites = self.stream.isatty()
        self.result = ""
        self.steps_done = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    # Not at the end of a batch: its logs would have to wait for the device.
    def on_train_batch_begin(self, batch, logs=None):
        now = time.perf_counter()
        if self.steps_done == 0:
            self.shown = 0.0
        elif self.steps_done == 1:  # The first step compiles, and does not count.
            self.start = now
        if self.rewrites and now - self.shown > 0.5:
            self.shown = now
            self.rewrite(self.line(self.epoch + 1, self.epoch, batch, now))
        self.steps_done += 1

    def on_epoch_end(self, epoch, logs=None):
        now, epochs = time.perf_counter(), self.params["epochs"]
        for name in ("loss", "accuracy"):
            if (value := (logs or {}).get(f"val_{name}")) is not None:
                self.result = f", validation {name} {value:.3f}"
        if 1 < self.steps_done == self.params["steps"]:
            whole = self.seconds_a_step(now) * self.params["steps"]
            left = duration(whole * (epochs - epoch - 1))
            self.write(f"An epoch takes {whole:.1f} s: {left} to go.")
        tenth = max(epochs // 10, 1)
        if not self.rewrites and ((epoch + 1) % tenth == 0 or epoch + 1 == epochs):
            self.write(self.line(epoch + 1, epoch + 1, 0, now))

    def on_train_end(self, logs=None):
        if self.rewrites:
            now = time.perf_counter()
            self.write(self.line(self.epoch + 1, self.params["epochs"], 0, now))

    def seconds_a_step(self, now):
        return (now - self.start) / (self.steps_done - 1) if self.steps_done > 1 else 0

    def line(self, number, epochs_done, batch, now):
        epochs, steps = self.params["epochs"], self.params["steps"]
        left = self.seconds_a_step(now) * ((epochs - epochs_done) * steps - batch)
        text = f"Epoch {number}/{epochs}{self.result}"
        if self.steps_done == 0:
            return f"{text}, compiling"
        return f"{text}, {duration(left)} left" if left else text

    def rewrite(self, text):
        print(f"\r{text:<78}", end="", file=self.stream, flush=True)

    def write(self, text):
        start = "\r" if self.rewrites else ""
        width = 78 if self.rewrites else 0
        print(f"{start}{text:<{width}}", file=self.stream, flush=True)
