"""From a trained adapter in a run folder to a version in the store."""

import shutil
from pathlib import Path

from adapters.errors import AdapterNotFoundError
from adapters.format.inspection import inspect_adapter
from adapters.format.manifest import Manifest
from adapters.format.tensor_values import check_values
from adapters.store.store import AdapterStore, StoredAdapter
from trainer.config import PublishSection
from trainer.loop.run_folder import RunFolder


def parent_version(store: AdapterStore, name: str) -> str | None:
    """`name@version` of what the name points at now; None when it points at nothing."""
    version = _current(store, name)
    return None if version is None else f"{name}@{version}"


def publish_adapter(
    store: AdapterStore, manifest: Manifest, folder: RunFolder, section: PublishSection
) -> StoredAdapter:
    """Copy the run's adapter into the store as a new version, whole or not at all.

    What the manifest says of method and rank is read from the files. With `publish.keep` older
    versions are removed afterwards, never one that the name points at. Raises `InspectionError` for
    an adapter that no server would load: not finite, or a LoRA without effect.
    """
    check_values(folder.adapter)
    if folder.loss_curve.is_file():
        shutil.copyfile(folder.loss_curve, folder.adapter / folder.loss_curve.name)
    inspection = inspect_adapter(folder.adapter)
    found = {"method": inspection.method, "rank": inspection.rank}
    manifest = manifest.model_copy(update=found)
    stored = store.publish(manifest.name, folder.adapter, manifest, set_alias=section.alias)
    if section.keep is not None:
        store.prune(manifest.name, section.keep)
    return stored


def folder_size_bytes(folder: Path) -> int:
    """Bytes of all files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _current(store: AdapterStore, name: str) -> int | None:
    try:
        return store.current_version(name)
    except AdapterNotFoundError:
        return None
