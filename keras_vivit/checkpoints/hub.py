"""Folders on the Hugging Face Hub, to and fro."""

import re
from pathlib import Path
from typing import Any

from keras_vivit import validation
from keras_vivit.checkpoints import pixels, preset_folder
from keras_vivit.extras import optional_package

_CONFIG = ["config.json", pixels.FILE]
_TIMEOUT = 10  # Seconds.


def download(source: str) -> Path:
    """Fetches `hf://owner/name[@revision]` into Hugging Face's cache.

    Without a connection the cache is used at once.

    Raises:
        ValueError: If the address is malformed.
        ImportError: If huggingface-hub is not installed.
    """
    name, revision = _parse(source)
    hub = optional_package("huggingface_hub", "keras-vivit[hf]")
    errors = optional_package("huggingface_hub.errors", "keras-vivit[hf]")
    try:
        # Unlike the request for a list of files, this one is not retried.
        info = hub.HfApi().repo_info(name, revision=revision, timeout=_TIMEOUT)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except Exception as error:  # No connection, offline mode, or the Hub is down.
        try:
            folder = hub.snapshot_download(
                name, revision=revision, allow_patterns=_CONFIG, local_files_only=True
            )
        except FileNotFoundError:
            raise error from None
        return Path(folder)
    patterns = _patterns([file.rfilename for file in info.siblings])
    return Path(hub.snapshot_download(name, revision=revision, allow_patterns=patterns))


def _patterns(files: list[str]) -> list[str]:
    """Returns the files to fetch: one kind of weights."""
    if {preset_folder.WEIGHTS, preset_folder.METADATA} <= set(files):
        return list(preset_folder.FILES)
    # PyTorch's format only where the repository has no safetensors.
    any_safetensors = any("safetensors" in name for name in files)
    kind = "*.safetensors" if any_safetensors else "pytorch_model*.bin"
    return [*_CONFIG, kind, f"{kind}.index.json"]


def upload_preset(
    uri: str, directory: str | Path, private: bool = False, revision: str | None = None
) -> None:
    """Uploads a folder of `save_to_preset` to the Hugging Face Hub.

    The repository is made if there is none. `huggingface-hub` finds the token: run
    `hf auth login` once, or set the environment variable `HF_TOKEN`.

    Args:
        uri: `"hf://owner/name"`.
        directory: The folder.
        private: Boolean, whether a new repository is private.
        revision: Optional string, the branch to upload to. Defaults to `main`.

    Raises:
        ValueError: If the address is malformed, or the folder is no preset.
        ImportError: If huggingface-hub is not installed.

    Example:

    ```
    model.save_to_preset("my_model")
    keras_vivit.upload_preset("hf://me/my_model", "my_model")
    ```
    """
    name, in_uri = _parse(uri, "uri")
    private = validation.boolean("private", private)
    if revision is not None:
        validation.strings("revision", [revision])
    if "@" in uri:
        raise ValueError(
            "`uri` must be 'hf://owner/name'; `revision` names a branch. "
            f"Received: uri={uri!r}"
        )
    folder = validation.path("directory", directory).expanduser()
    missing = [file for file in preset_folder.FILES if not (folder / file).is_file()]
    if missing or not preset_folder.is_one(folder):
        raise ValueError(
            "`directory` must be a folder that `save_to_preset` wrote. Received: "
            f"directory={str(directory)!r}, without {', '.join(missing) or 'a model'}"
        )
    hub = optional_package("huggingface_hub", "keras-vivit[hf]")
    api = hub.HfApi()
    api.create_repo(name, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(name, branch=revision, exist_ok=True)
    api.upload_folder(
        repo_id=name,
        folder_path=folder,
        revision=revision or in_uri,
        allow_patterns=list(preset_folder.FILES),
        commit_message="Upload with keras-vivit",
    )


def _parse(source: Any, argument: str = "source") -> tuple[str, str]:
    """Returns the name and the revision of an address."""
    match = re.fullmatch(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?", str(source))
    if match is None:
        raise ValueError(
            f"`{argument}` must be 'hf://owner/name' or 'hf://owner/name@revision'. "
            f"{validation.received(argument, source)}"
        )
    return match[1], match[2] or "main"
