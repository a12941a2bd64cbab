"""A run's folder: what the run was started with, and whether it can go on."""

import contextlib
import csv
import json
import os
import tempfile
from pathlib import Path

from common.command_line import InputError


def record_of(folder):
    """Returns what `start` wrote into a run's folder."""
    try:
        return json.loads((Path(folder) / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"The run folder must hold a readable run.json. Received: {folder}."
        ) from error


def check_new(folder):
    """Raises if there is a run in the folder: it is not overwritten."""
    if (folder / "run.json").exists():
        raise InputError(
            f"`--out` must not hold a run yet. Received: {folder} (`--resume` goes on "
            "with the run in it, another `--out` starts one elsewhere)."
        )


def start(folder, record):
    """Makes the folder of a new run."""
    check_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"`--out` must be a folder that can be written to. Received: {folder} "
            f"({error.strerror})."
        ) from error
    try:
        with (folder / "run.json").open("x") as file:
            json.dump(record, file, indent=2)
    except FileExistsError:  # Another run has started meanwhile.
        check_new(folder)


def note(folder, **facts):
    """Adds facts to a run's record."""
    text = json.dumps({**record_of(folder), **facts}, indent=2)
    replace(folder / "run.json", text)


def replace(path, content):
    """Writes a file, text or bytes, in one step: it is the old one or the new one."""
    partial = path.with_name(f"{path.name}.part")
    partial.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.replace(partial, path)


@contextlib.contextmanager
def alone(folder):
    """Keeps other processes from training in a folder; a killed one does no longer."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = None
    # Neither Windows nor all file systems have such locks.
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InputError(
                f"The run folder must belong to one process. Received: {folder}, where "
                "another one trains."
            ) from error
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def check_unchanged(folder, configuration):
    """Raises unless a run is resumed with the options it was started with."""
    earlier = record_of(folder)
    configuration = json.loads(json.dumps(configuration))  # Lists instead of tuples.
    changes = [
        f"{key} {earlier.get(key)!r} -> {value!r}"
        for key, value in configuration.items()
        if earlier.get(key) != value
    ]
    if changes:
        raise InputError(
            "`--resume` must come with the options that the run was started with. "
            f"Received: {', '.join(changes)} in {folder}."
        )


def read_history(folder):
    """Returns a dict of floats per finished epoch, oldest first."""
    path = Path(folder) / "history.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {key: float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
