"""Where a base model is: `embedded:NAME`, a local folder, or a Hugging Face hub id."""

import re
from dataclasses import dataclass
from pathlib import Path

from adapters.base.digest import folder_digest
from adapters.base.embedded import resolve_embedded
from adapters.base.errors import BaseNotFoundError, BaseUnreadableError
from adapters.cache_folder import default_cache_dir
from adapters.file_trust import writable_by_others

EMBEDDED_PREFIX = "embedded:"
DEFAULT_BASE = "embedded:smollm2-135m-instruct"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class ResolvedBase:
    """A base model on this disk; `digest` names its weights, `revision` a hub commit if any."""

    reference: str
    path: Path
    revision: str | None
    digest: str

    @property
    def model_id(self) -> str:
        """The name that requests use for the base alone: the reference without prefix and path."""
        if self.reference.startswith(EMBEDDED_PREFIX):
            return self.reference.removeprefix(EMBEDDED_PREFIX)
        if _HUB_ID.fullmatch(self.reference) and not Path(self.reference).exists():
            return self.reference
        return self.path.name


def resolve_base(reference: str, cache_dir: Path | None = None) -> ResolvedBase:
    """Find a base model's files, converting or downloading them if need be.

    Raises `BaseNotFoundError` when the reference leads nowhere (a hub id without network
    included) and `BaseUnreadableError` when the folder isn't a model.
    """
    cache_dir = cache_dir or default_cache_dir()
    if reference.startswith(EMBEDDED_PREFIX):
        name = reference.removeprefix(EMBEDDED_PREFIX)
        path, digest = resolve_embedded(name, cache_dir)
        return ResolvedBase(reference, path, None, digest)
    folder = Path(reference).expanduser()
    revision = None
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(reference):
            raise BaseNotFoundError(
                f"no folder {reference!r}, and it isn't a hub id (owner/name) nor embedded:NAME"
            )
        folder = _download(reference)
        revision = folder.name
    if not (folder / "config.json").is_file():
        raise BaseUnreadableError(f"{folder} has no config.json: not a transformers model folder")
    if not any(folder.glob("*.safetensors")):
        raise BaseUnreadableError(
            f"{folder} has no .safetensors file; pickled weights aren't read. Save the model "
            "with save_pretrained(..., safe_serialization=True)"
        )
    key = str(folder.resolve()).replace("/", "_").strip("_")
    kept = cache_dir / "digests" / f"{key[-150:]}.json"
    digest = folder_digest(folder, None if writable_by_others(kept, cache_dir) else kept)
    return ResolvedBase(reference, folder.resolve(), revision, digest)


def _download(reference: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(reference, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise BaseNotFoundError(
            f"{reference} isn't in the local Hugging Face cache and the hub can't be reached; "
            f"check the network, name a local folder, or use {DEFAULT_BASE}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BaseNotFoundError(f"the hub has no usable model {reference}: {reason}") from error
