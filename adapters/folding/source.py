"""A PEFT folder that may be folded: what it is, and a copy that PEFT can safely read."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import DocumentError, FoldError, InspectionError, TensorFileError
from adapters.format.adapter_config import read_adapter_config
from adapters.format.digest import adapter_digest
from adapters.format.folder_files import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, list_folder
from adapters.format.manifest import Manifest, read_manifest
from adapters.format.peft_methods import folding_problem
from adapters.format.tensor_values import check_values


@dataclass(frozen=True)
class DenseSource:
    """`digest` is that of the folder as it stands, `manifest` what came along."""

    folder: Path
    method: str
    digest: str
    manifest: Manifest | None
    files: dict[str, Path]

    @staticmethod
    def read(folder: Path) -> "DenseSource":
        """Raises `FoldError` for a method that isn't folded, and `InspectionError`."""
        title = f"the adapter in {folder} can't be used:"
        try:
            listing = list_folder(folder)
            problems = list(listing.problems)
            missing = {CONFIG_FILE, WEIGHTS_FILE} - set(listing.files)
            problems += [f"{name} is missing" for name in sorted(missing)]
            if problems:
                raise InspectionError(title, problems)
            document = read_adapter_config(listing.files[CONFIG_FILE])
            method = _method(document)
            check_values(folder)
            digest = adapter_digest(folder)
        except OSError as error:
            raise InspectionError(title, [f"it can't be read: {error.strerror}"]) from error
        except (DocumentError, TensorFileError) as error:
            raise InspectionError(title, [str(error)]) from error
        has_manifest = MANIFEST_FILE in listing.files
        manifest = read_manifest(folder / MANIFEST_FILE) if has_manifest else None
        return DenseSource(folder.absolute(), method, digest, manifest, listing.files)

    def check_base(self, digest: str) -> None:
        """Raises `FoldError` when a manifest says that it was trained on another base."""
        base = self.manifest.base if self.manifest is not None else None
        if base is not None and base.digest != digest:
            raise FoldError(
                f"the adapter in {self.folder} was trained on the base {base.reference} "
                f"({base.digest}), and this one is {digest}"
            )

    def copy_to(self, folder: Path) -> Path:
        """The config and the tensors alone: nothing else is given to PEFT."""
        folder.mkdir()
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(self.files[name], folder / name)
        return folder


def _method(document: dict[str, Any]) -> str:
    method = document.get("peft_type")
    if not isinstance(method, str):
        raise FoldError("adapter_config.json has no peft_type: not a PEFT adapter")
    if (problem := folding_problem(method)) is not None:
        raise FoldError(problem)
    if document.get("modules_to_save"):
        raise FoldError(
            f"modules_to_save is {document['modules_to_save']}: a fold keeps the changes of linears"
            " only"
        )
    return method.upper()
