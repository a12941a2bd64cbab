"""Training that can be killed and resumed, and that stops early."""

import contextlib

import keras

from common import processes
from common.command_line import InputError
from common.progress import ProgressLine
from common.resuming import Checkpoint, RepeatableEpochs, ResumableEarlyStopping
from common.run_folder import alone, read_history


def fit(model, batches, validation, folder, epochs, **options):
    """Trains in a folder of which no other process has hold, see `_fit`."""
    with alone(folder) if processes.index() == 0 else contextlib.nullcontext():
        return _fit(model, batches, validation, folder, epochs, **options)


def _fit(
    model,
    batches,
    validation,
    folder,
    epochs,
    patience=None,
    averaging=False,
    validation_batch_size=None,
    callbacks=(),
    verbose=False,
):
    """Trains, or resumes training, and leaves the weights of the epoch to keep.

    That is the epoch with the best validation loss where training may stop early,
    else the last one. The folder's `checkpoints` are no longer needed once the caller
    has saved the model.

    Args:
        model: Compiled Keras model, whose optimizer is built: else a resumed one has no
            variables of it to load.
        batches: Dataset with a `seed` and a method `start_epoch(epoch)`; of several
            processes each one has its share of the batches.
        validation: Arrays or dataset, as for `fit`.
        folder: Path of the run's folder.
        epochs: Integer.
        patience: Integer, epochs without a better validation loss before training
            stops, or `None`.
        averaging: Boolean, whether the optimizer keeps a moving average of the
            weights: validation uses it, and it is what is kept.
        validation_batch_size: Integer, for arrays.
        callbacks: List of further callbacks.
        verbose: Boolean, whether Keras shows its progress bars.

    Returns:
        The number of the kept epoch, from 1.
    """
    checkpoint = Checkpoint(
        folder / "checkpoints",
        "epoch-{epoch:04d}.npz",
        to_numpy=processes.whole,
        writes=processes.index() == 0,
        wait=lambda: processes.gather(None),
    )
    history = processes.gather(read_history(folder))[0]
    stopping = ResumableEarlyStopping(
        history,
        monitor="val_loss",
        mode="min",
        patience=epochs if patience is None else patience,
    )
    if history:
        print(f"Going on after epoch {len(history)}.")
        load_epoch(model, checkpoint, len(history))

    # Replayed before `fit`, which would train one epoch more in any case.
    stopping.set_model(model)
    stopping.on_train_begin()

    def prune(epoch, logs):
        if processes.index() > 0:
            return
        checkpoint.keep_only(epoch + 1, stopping.best_epoch + 1)

    processes.average_gradients(model)
    if len(history) < epochs and not stopping.stopped_epoch:
        model.fit(
            batches,
            epochs=epochs,
            initial_epoch=len(history),
            shuffle=False,  # The batches shuffle; Keras' order changes by resuming.
            validation_data=validation,
            validation_batch_size=validation_batch_size,
            verbose="auto" if verbose else 0,
            callbacks=[
                processes.GlobalLogs(),
                RepeatableEpochs(batches),
                # Validates with the averaged weights, and trains on with the others.
                *([keras.callbacks.SwapEMAWeights()] if averaging else []),
                checkpoint,
                # After the checkpoint: a row vouches for a complete file.
                *history_writer(folder),
                stopping,
                keras.callbacks.LambdaCallback(on_epoch_end=prune),
                *([] if verbose else [ProgressLine()]),
                *callbacks,
            ],
        )
    processes.gather(None)  # Until the first one has written the last epoch.
    kept = epochs if patience is None else stopping.best_epoch + 1
    load_epoch(model, checkpoint, kept)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    loss = read_history(folder)[kept - 1]["val_loss"]
    print(f"Keeping epoch {kept} (val_loss {loss:.4f}).")
    return kept


def history_writer(folder):
    if processes.index() > 0:
        return []
    return [keras.callbacks.CSVLogger(folder / "history.csv", append=True)]


def load_epoch(model, checkpoint, epoch):
    if checkpoint.load(model, epoch) != epoch:
        raise InputError(
            f"The run folder must hold the checkpoint of epoch {epoch}. "
            f"Received: no file {checkpoint.path(epoch)}."
        )
