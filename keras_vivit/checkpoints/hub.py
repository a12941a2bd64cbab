"""Folders on the Hugging Face Hub."""

import re
from pathlib import Path

from keras_vivit.checkpoints import pixels
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
    match = re.fullmatch(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?", source)
    if match is None:
        raise ValueError(
            "`source` must be 'hf://owner/name' or 'hf://owner/name@revision'. "
            f"Received: source={source!r}"
        )
    hub = optional_package("huggingface_hub", "keras-vivit[hf]")
    errors = optional_package("huggingface_hub.errors", "keras-vivit[hf]")
    name, revision = match[1], match[2] or "main"
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
    files = " ".join(file.rfilename for file in info.siblings)
    # PyTorch's format only where the repository has no safetensors.
    kind = "*.safetensors" if "safetensors" in files else "pytorch_model*.bin"
    return Path(
        hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*_CONFIG, kind, f"{kind}.index.json"],
        )
    )
