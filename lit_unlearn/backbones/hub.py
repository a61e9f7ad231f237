"""Weights on Hugging Face's hub, downloaded once into its own cache, and found there without a net."""

import re
from pathlib import Path

from lit_unlearn.errors import UsageError, first_line

HUB = "hf-hub:"
_USUAL = ("model.safetensors", "pytorch_model.bin")


def downloaded(name: str) -> Path:
    """The file behind ``hf-hub:owner/repository``, or with a revision and a file ``hf-hub:owner/repository@main/a.pt``.

    Args:
        name: as above; without a file, ``model.safetensors`` or else ``pytorch_model.bin``.

    Raises:
        UsageError: if the name has another form, huggingface_hub is missing, or the file cannot be had.
    """
    match = re.fullmatch(r"hf-hub:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?", name)
    if match is None:
        raise UsageError(f"{name!r} must be {HUB}owner/repository, with @revision and /file behind it where needed")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise UsageError("huggingface_hub is not installed: pip install 'lit_unlearn[hub]'") from error
    repository, revision, file = match.groups()
    missing: Exception | None = None
    for each in _USUAL if file is None else (file,):
        try:
            return Path(hf_hub_download(repository, each, revision=revision))
        except EntryNotFoundError as error:
            missing = missing or error
        # A name that is not there, a gated one and a hub out of reach raise errors of many kinds.
        except Exception as error:
            raise UsageError(f"cannot get {name}: {first_line(error)}") from error
    assert missing is not None
    raise UsageError(f"cannot get {name}: {first_line(missing)}") from missing
