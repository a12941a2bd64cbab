"""The examples' progress line: rewritten on a terminal, rare elsewhere."""

import io
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from common import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A second passes with each step; the first one takes ten."""
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    return clock


def train(stream, clock, epochs, steps=4, first=0):
    line = progress.ProgressLine(stream)
    line.set_params({"epochs": epochs, "steps": steps})
    for epoch in range(first, epochs):
        line.on_epoch_begin(epoch)
        for step in range(steps):
            line.on_train_batch_begin(step)
            clock[0] += 10 if (epoch, step) == (first, 0) else 1
        line.on_epoch_end(epoch, {"val_accuracy": epoch / epochs})
    line.on_train_end()
    return stream.getvalue()


def test_log_has_a_line_for_each_tenth_and_the_time_of_an_epoch(clock):
    first, *lines = train(io.StringIO(), clock, epochs=40).splitlines()
    assert first == "An epoch takes 4.0 s: 3 min to go."
    assert [line.split(",")[0] for line in lines] == [
        f"Epoch {number}/40" for number in range(4, 41, 4)
    ]
    assert lines[-2] == "Epoch 36/40, validation accuracy 0.875, 16 s left"
    assert lines[-1] == "Epoch 40/40, validation accuracy 0.975"


def test_terminal_shows_one_line_with_the_time_left(clock):
    text = train(Terminal(), clock, epochs=3)
    shown = [part.strip() for part in text.split("\r")[1:]]
    assert shown[0] == "Epoch 1/3, compiling"
    assert shown[2] == "Epoch 1/3, 10 s left"
    assert shown[4] == "An epoch takes 4.0 s: 8 s to go."
    assert shown[5] == "Epoch 2/3, validation accuracy 0.000, 8 s left"
    assert shown[-2] == "Epoch 3/3, validation accuracy 0.333, 1 s left"
    assert shown[-1] == "Epoch 3/3, validation accuracy 0.667"
    assert text.count("\n") == 2


def test_resumed_training_counts_the_epochs_that_are_left(clock):
    first, *lines = train(io.StringIO(), clock, epochs=10, first=8).splitlines()
    assert first == "An epoch takes 4.0 s: 4 s to go."
    assert [line.split(",")[0] for line in lines] == ["Epoch 9/10", "Epoch 10/10"]
