"""Does a stored version still hold what its manifest says?"""

import hashlib
from collections.abc import Mapping

from adapters.errors import AdapterError, InspectionError
from adapters.format.digest import adapter_digest
from adapters.format.inspection import inspect_adapter
from adapters.format.manifest import BaseLineage
from adapters.store.store import StoredAdapter


def verify_stored(
    stored: StoredAdapter,
    base: BaseLineage | None = None,
    base_modules: Mapping[str, tuple[int, int]] | None = None,
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
    template = manifest.template
    if template is not None:
        found = "sha256:" + hashlib.sha256(template.text.encode()).hexdigest()
        if found != template.hash:
            problems.append(f"its chat template hashes to {found}, not {template.hash}")
    if base is not None and manifest.base is not None and manifest.base.digest != base.digest:
        problems.append(
            f"it was trained on {manifest.base.reference} ({manifest.base.digest}), not on "
            f"{base.reference} ({base.digest})"
        )
    return tuple(problems)
