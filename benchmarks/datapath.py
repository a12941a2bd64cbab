"""How long an epoch of the OrganMNIST3D recipe takes, augmented or not."""

import statistics
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "examples" / "organmnist3d"


def measure(case, batches=8, epochs=4):
    """Trains the tuned configuration on a few batches; the first epoch warms up.

    Returns:
        Dictionary: seconds of an epoch of the whole set, without its validation, and
        the batches that it has.
    """
    if str(RECIPE) not in sys.path:
        sys.path.insert(0, str(RECIPE))  # as Python does for a script in that folder
    import configs
    import data
    import training
    from common.resuming import RepeatableEpochs

    configuration = {
        **configs.TUNED,
        "seed": 0,
        "precision": case["dtype"],
        "variant": configs.VARIANTS[0],
    }
    size = configuration["batch_size"]
    volumes = data.synthetic()
    whole = -(-len(volumes.train.labels) // size)
    volumes = volumes._replace(
        train=data.Split(*(part[: batches * size] for part in volumes.train))
    )
    model = training.build(volumes, configuration)
    settings = configuration["augmentation"] if case["augment"] else None
    layers = training.layers_for(settings, volumes.sides)
    source = training.Batches(volumes.train, len(volumes.class_names), size, 0, layers)
    history = model.fit(
        source,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[RepeatableEpochs(source)],
    ).history["seconds"]
    return {"epoch": statistics.median(history[1:]) * whole / batches, "batches": whole}
