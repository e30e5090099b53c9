"""What an import checks, and the manifest that it makes where none came along."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import InspectionError, ManifestError, first_dozen
from adapters.format.digest import adapter_digest
from adapters.format.folder_files import MANIFEST_FILE, list_folder
from adapters.format.inspection import inspect_adapter
from adapters.format.manifest import BaseLineage, Manifest, TemplateRecord, read_manifest
from adapters.format.tensor_values import check_values
from adapters.seal import seal_problems
from adapters.template_check import (
    BaseTemplate,
    foreign_problem,
    golden_problem,
    record_problem,
)


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """A PEFT folder that shall become a version of `name`.

    `base_modules`, `base` and `base_template` are the base that it is to be served on; `source` is
    where it comes from. With `allow_template` the operator lets it bring a template of its own.
    """

    name: str
    source: str
    base_modules: Mapping[str, tuple[int, int]] | None = None
    base: BaseLineage | None = None
    base_template: BaseTemplate | None = None
    allow_template: bool = False

    def check_source(self, folder: Path) -> None:
        """Refuse early what can be refused without a copy. Raises as `describe` does."""
        inspect_adapter(folder, self.base_modules)
        self._given_manifest(folder)

    def describe(self, staged: Path, parent: str | None, came_with: Path | None = None) -> Manifest:
        """The manifest of the copy in `staged`, which is what must pass.

        `parent` is the version that the name means now. A manifest that came along (in `came_with`,
        by default the copy itself) is kept but for its name, parent, source and time, and must
        agree with the weights. Raises `InspectionError`, and `ManifestError` when the files were
        changed after their manifest was written.
        """
        inspection = inspect_adapter(staged, self.base_modules)
        check_values(staged)
        given = self._given_manifest(came_with or staged)
        facts = {
            "name": self.name,
            "created_unix_seconds": int(time.time()),
            "method": inspection.method,
            "rank": inspection.rank,
            "parent": parent,
            "source": self.source,
        }
        if given is None:
            return Manifest.model_validate({**facts, "base": self.base})
        digest = adapter_digest(staged)
        if given.digest and given.digest != digest:
            raise ManifestError(
                f"{MANIFEST_FILE} of {self.source} says {given.digest}, but the files are "
                f"{digest}: they were changed after it was written. Delete the manifest to import "
                "them as they are"
            )
        return given.model_copy(update=facts)

    def needs_permission(self, manifest: Manifest) -> bool:
        """Whether the template of what was imported has to be allowed by a record in the store."""
        template = manifest.template
        if not self.allow_template or template is None or not template.text:
            return False
        return self.base_template is None or template.text_hash != self.base_template.hash

    def _given_manifest(self, folder: Path) -> Manifest | None:
        path = folder / MANIFEST_FILE
        if not path.is_file():
            return None
        manifest = read_manifest(path)
        if changed := seal_problems(folder, list_folder(folder).files):
            listed = "; ".join(first_dozen(changed))
            raise ManifestError(
                f"{self.source} was changed after it was written: {listed}. Delete "
                f"{MANIFEST_FILE} to import the rest as it is"
            )
        made_for = manifest.base
        if self.base is not None and made_for is not None and made_for.digest != self.base.digest:
            raise InspectionError(
                f"the adapter in {self.source} can't be used:",
                [
                    f"it was trained on the base {made_for.reference} ({made_for.digest}), and "
                    f"this base is {self.base.reference} ({self.base.digest})"
                ],
            )
        if manifest.template is not None:
            self._check_template(manifest.template)
        return manifest

    def _check_template(self, template: TemplateRecord) -> None:
        problem, base = record_problem(template), self.base_template
        if problem is None and base is not None:
            problem = golden_problem(template, base)
            if problem is None and not self.allow_template:
                problem = foreign_problem(template, base)
        if problem is not None:
            raise InspectionError(f"the adapter in {self.source} can't be used:", [problem])
