"""Folders on the Hugging Face Hub."""

import re
from pathlib import Path

from keras_vivit.extras import optional_package


def download(source):
    """Fetches `hf://owner/name[@revision]` into Hugging Face's cache."""
    match = re.fullmatch(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?", source)
    if match is None:
        raise ValueError(
            "`source` must be 'hf://owner/name' or 'hf://owner/name@revision'. "
            f"Received: source={source!r}"
        )
    hub = optional_package("huggingface_hub", "keras-vivit[hf]")
    name, revision = match.groups()
    files = hub.HfApi().list_repo_files(name, revision=revision)
    # PyTorch's format only where the repository has no safetensors.
    kind = "*.safetensors" if "safetensors" in " ".join(files) else "pytorch_model*.bin"
    patterns = ["config.json", kind, f"{kind}.index.json"]
    return Path(hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
