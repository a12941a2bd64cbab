"""Masked pre-training in a run's folder, and its report."""

import os
import shutil


def train(model, batches, validation, folder, name, **options):
    """Trains as `fitting.fit`, and saves the model as the preset `folder / name`."""
    from common.fitting import fit

    fit(model, batches, validation, folder, **options)
    model.save_to_preset(folder / "unfinished")
    os.replace(folder / "unfinished", folder / name)
    shutil.rmtree(folder / "checkpoints")


def report(folder, name, about, samples):
    """Writes the report of a finished run, see `reconstructions.write`."""
    import keras_vivit
    from common.report import reconstructions

    model = keras_vivit.ViViTMaskedAutoencoder.from_preset(folder / name)
    reconstructions.write(folder, about, model, samples)
