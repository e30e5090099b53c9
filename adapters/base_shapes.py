"""What an adapter is checked against: a base model's digest and module shapes.

Only `--base` needs them, and only they need torch, so those modules are imported when asked for:
the rest of the command starts without.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.base.errors import BaseUnreadableError
from adapters.format.manifest import BaseLineage


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """A base model as an inspection sees it; `modules` is name -> (in_features, out_features)."""

    lineage: BaseLineage
    modules: Mapping[str, tuple[int, int]]


def load_base_shapes(reference: str) -> BaseShapes:
    """Resolve a base model and read its module shapes from its config; loads no weights.

    Raises `BaseModelError`.
    """
    import transformers

    from adapters.base.modules import adaptable_modules_from_config as shapes_of
    from adapters.base.reference import resolve_base

    resolved = resolve_base(reference)
    try:
        modules = shapes_of(transformers.AutoConfig.from_pretrained(str(resolved.path)))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BaseUnreadableError(f"the config of {reference} can't be used: {reason}") from error
    lineage = BaseLineage(
        reference=resolved.reference, revision=resolved.revision, digest=resolved.digest
    )
    return BaseShapes(lineage, modules)
