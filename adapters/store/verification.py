"""Does a stored version still hold what its manifest says?"""

from collections.abc import Mapping

from adapters.errors import AdapterError, InspectionError
from adapters.format.digest import adapter_digest
from adapters.format.folder_files import list_folder
from adapters.format.inspection import inspect_adapter
from adapters.format.manifest import BaseLineage
from adapters.seal import seal_problems
from adapters.store.store import StoredAdapter
from adapters.template_check import BaseTemplate, golden_problem, record_problem


def verify_stored(
    stored: StoredAdapter,
    base: BaseLineage | None = None,
    base_modules: Mapping[str, tuple[int, int]] | None = None,
    base_template: BaseTemplate | None = None,
) -> tuple[str, ...]:
    """Every way in which `stored` contradicts its manifest or the base; empty when sound.

    Reads all weights once. Raises nothing for a damaged folder: that is an answer.
    """
    problems: list[str] = []
    manifest = stored.manifest
    try:
        inspection = inspect_adapter(stored.path, base_modules)
        if inspection.rank != manifest.rank:
            problems.append(f"its rank is {inspection.rank}, its manifest says {manifest.rank}")
        if inspection.method != manifest.method:
            problems.append(
                f"its method is {inspection.method}, its manifest says {manifest.method}"
            )
    except InspectionError as error:
        problems += error.problems
    try:
        digest = adapter_digest(stored.path)
        if digest != manifest.digest:
            problems.append(f"its digest is {digest}, its manifest says {manifest.digest}")
    except (AdapterError, OSError) as error:
        problems.append(f"its digest can't be computed: {str(error).splitlines()[0]}")
    if manifest.name != stored.name:
        problems.append(f"it is stored as {stored.name}, its manifest says {manifest.name}")
    try:
        problems += seal_problems(stored.path, list_folder(stored.path).files)
    except (AdapterError, OSError) as error:
        problems.append(f"its seal can't be checked: {str(error).splitlines()[0]}")
    template = manifest.template
    if template is not None:
        problem = record_problem(template)
        if problem is None and base_template is not None:
            problem = golden_problem(template, base_template)
        problems += [problem] if problem is not None else []
    if base is not None and manifest.base is not None and manifest.base.digest != base.digest:
        problems.append(
            f"it was trained on {manifest.base.reference} ({manifest.base.digest}), not on "
            f"{base.reference} ({base.digest})"
        )
    return tuple(problems)
