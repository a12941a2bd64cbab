"""Folders of one's own models, with KerasHub's file names.

`config.json` and `model.weights.h5` hold the whole model, `metadata.json` what a reader
wants to know, `README.md` is a model card.
"""

import datetime
import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_vivit import freezing, validation
from keras_vivit.checkpoints import names
from keras_vivit.checkpoints.tensors import Checkpoint, Tensor, read_json

CONFIG, WEIGHTS, METADATA, CARD = FILES = (
    "config.json",
    "model.weights.h5",
    "metadata.json",
    "README.md",
)
_PACKAGE = "keras_vivit>"
_CLASSES = ("ViViTClassifier", "ViViTBackbone", "ViViTMaskedAutoencoder")
_FUNCTION = {"class_name": "function", "config": f"{_PACKAGE}gelu_tanh"}
_POLICY_MODULES = ("keras", "keras.dtype_policies")
_ACTIVATIONS = ("activation", "classifier_activation")
_TUPLES = ("video_shape", "tubelet_size", "strides", "rescaling", "value_range")


def is_one(source: Any) -> bool:
    """Returns whether `source` is a folder with the config of a Keras model."""
    if not isinstance(source, Path) or not (source / CONFIG).is_file():
        return False
    return "class_name" in read_json(source / CONFIG)


def load(folder: Path) -> keras.Model:
    """Builds the model of a folder.

    Raises:
        ValueError: If the folder is damaged, or not one of this library's.
    """
    cls, config = _read_config(folder)
    metadata = read_json(folder / METADATA)
    try:
        model = cls.from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder / CONFIG} must describe a model of keras_vivit ({error})."
        ) from error
    try:
        model.load_weights(folder / WEIGHTS)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{folder / WEIGHTS} must be a whole file of the model's weights ({error})."
        ) from error
    model.sampling = metadata.get("sampling")
    return model


def read(folder: Path) -> Checkpoint:
    """Opens the model of a folder, for models with other arguments."""
    model = load(folder)
    arrays = names.tensors_of(model)
    tensors = {name: Tensor(x.shape, x.view) for name, x in arrays.items()}
    config = model.get_config()
    return Checkpoint(
        tensors, {k: v for k, v in config.items() if k not in (freezing.KEY, "name")}
    )


def sampling_of(folder: Path) -> Any:
    return read_json(folder / METADATA).get("sampling")


def _read_config(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Returns the class and its arguments, which name nothing that could run."""
    path = folder / CONFIG
    content = read_json(path)
    classes = {
        f"{_PACKAGE}{name}": keras.saving.get_registered_object(f"{_PACKAGE}{name}")
        for name in _CLASSES
    }
    cls, config = (
        classes.get(str(content.get("registered_name"))),
        content.get("config"),
    )
    if cls is None or not isinstance(config, dict):
        raise ValueError(
            f"{path} must hold the config of one of {', '.join(classes)}. "
            f"Received: {content.get('registered_name')!r}"
        )
    known = {*inspect.signature(cls).parameters, freezing.KEY}
    for name, value in config.items():
        if name not in known or not _is_data(name, value):
            raise ValueError(
                f"{path} must hold arguments of {cls.__name__}, Keras' dtype policies "
                f"and known activations. Received: {name}={value!r}"
            )
    return cls, {
        name: tuple(value) if name in _TUPLES and value is not None else value
        for name, value in config.items()
    }


def _is_data(name: str, value: Any) -> bool:
    """Whether nothing is imported when Keras makes an object of a value."""
    if name in _ACTIVATIONS and isinstance(value, dict):
        return {key: value.get(key) for key in _FUNCTION} == _FUNCTION
    if name == "dtype" and isinstance(value, dict):
        return _is_policy(value)
    return not _names_objects(value)


def _is_policy(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("config"), dict):
        return False
    kind = value.get("class_name")
    if (
        value.get("module") not in _POLICY_MODULES
        or value.get("registered_name") is not None
        or not hasattr(keras.dtype_policies, str(kind))
    ):
        return False
    config = dict(value["config"])
    if kind != "DTypePolicyMap":
        return not _names_objects(config)
    policies = config.pop("policy_map", {})
    inner = [config.pop("default_policy", None), *policies.values()]
    return not config and all(
        policy is None or isinstance(policy, str) or _is_policy(policy)
        for policy in inner
    )


def _names_objects(value: Any) -> bool:
    if isinstance(value, dict):
        named = {"class_name", "module", "registered_name", "__lambda__"} & set(value)
        return bool(named) or any(map(_names_objects, value.values()))
    return isinstance(value, list) and any(map(_names_objects, value))


# === Writing ===


def save(
    model: keras.Model, directory: str | Path, sampling: dict[str, Any] | None
) -> None:
    """See `ViViTClassifier.save_to_preset`."""
    target = validation.path("directory", directory).expanduser()
    if target.exists() and not (
        target.is_dir() and (is_one(target) or not any(target.iterdir()))
    ):
        raise ValueError(
            "`directory` must be new, empty, or hold a model that `save_to_preset` "
            f"wrote. Received: directory={str(directory)!r}"
        )
    sampling = sampling if sampling is not None else model.sampling
    content = _config_of(model)
    metadata = _metadata(model, sampling)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that it can be renamed: the folder appears whole.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as name:
        folder = Path(name) / "new"
        folder.mkdir()
        (folder / CONFIG).write_text(content)
        (folder / METADATA).write_text(metadata)
        (folder / CARD).write_text(_card(model, sampling))
        _save_weights(model, folder / WEIGHTS)
        if target.exists():
            target.rename(Path(name) / "old")
        folder.rename(target)


def _save_weights(model: keras.Model, path: Path) -> None:
    """Saves weights without the state of the optimizer."""
    optimizer, model.optimizer = getattr(model, "optimizer", None), None
    try:
        model.save_weights(path)
    finally:
        model.optimizer = optimizer


def _config_of(model: keras.Model) -> str:
    """Returns the text of config.json; only what `load` accepts."""
    name = _class_name(model)
    config = json.loads(json.dumps(model.get_config()))
    for argument, value in config.items():
        if not _is_data(argument, value):
            raise ValueError(
                f"`{argument}` must be the name of an activation in Keras, or the "
                f"default. Received: {argument}={value!r}"
            )
    content = {
        "module": "keras_vivit",
        "class_name": name,
        "config": config,
        "registered_name": f"{_PACKAGE}{name}",
    }
    return json.dumps(content, indent=2) + "\n"


def _class_name(model: keras.Model) -> str:
    bases = [base.__name__ for base in type(model).__mro__]
    return next(name for name in bases if name in _CLASSES)


def _metadata(model: keras.Model, sampling: Any) -> str:
    from keras_vivit import __version__

    content = {
        "keras_version": keras.__version__,
        "keras_vivit_version": __version__,
        "parameter_count": model.count_params(),
        "date_saved": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
        "sampling": sampling,
    }
    try:
        return json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`sampling` must hold what JSON can: strings, numbers, lists and "
            f"dictionaries. Received: sampling={sampling!r}"
        ) from error


def _card(model: keras.Model, sampling: Any) -> str:
    """Returns a model card to be filled in."""
    config = model.get_config()
    classes = config.get("num_classes", "none")
    kind = _class_name(model)
    shape = " x ".join(map(str, config["video_shape"]))
    return f"""---
library_name: keras
pipeline_tag: video-classification
tags:
- keras-vivit
---

# MODEL NAME

WHAT THE MODEL DOES, AND WHO MADE IT.

| | |
|---|---|
| model | {kind}, variant {config["variant"]} |
| input | {shape} (frames x height x width x channels) |
| rescaling of pixels | {config["rescaling"]} |
| classes | {classes} |
| sampling | {sampling} |
| parameters | {model.count_params():,} |

```python
import keras_vivit

model = keras_vivit.{kind}.from_preset("hf://OWNER/NAME")
```

## Training data

WHAT IT WAS TRAINED ON, AND UNDER WHICH LICENCE.

## Evaluation

ACCURACY, ON WHAT, AND HOW OFTEN IT WAS MEASURED.

## Limits

WHAT THE MODEL SHOULD NOT BE USED FOR.
"""
