"""What an adapter is checked against: a base model's digest, module shapes and chat template.

Only `--base` needs them, and only they need torch, so those modules are imported when asked for:
the rest of the command starts without.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.base.errors import BaseUnreadableError
from adapters.format.manifest import BaseLineage
from adapters.template_check import BaseTemplate


@dataclass(frozen=True, slots=True)
class BaseShapes:
    """A base model as an inspection sees it; `modules` is name -> (in_features, out_features)."""

    lineage: BaseLineage
    modules: Mapping[str, tuple[int, int]]
    template: BaseTemplate


def load_base_shapes(reference: str) -> BaseShapes:
    """Resolve a base model and read its module shapes and tokenizer; loads no weights.

    Raises `BaseModelError`.
    """
    import transformers

    from adapters.base.chat_template import base_template
    from adapters.base.loading import load_tokenizer
    from adapters.base.modules import adaptable_modules_from_config as shapes_of
    from adapters.base.reference import resolve_base

    resolved = resolve_base(reference)
    try:
        modules = shapes_of(transformers.AutoConfig.from_pretrained(str(resolved.path)))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BaseUnreadableError(f"the config of {reference} can't be used: {reason}") from error
    try:
        tokenizer, template = load_tokenizer(resolved)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BaseUnreadableError(f"{reference} has no tokenizer to use: {reason}") from error
    lineage = BaseLineage(
        reference=resolved.reference, revision=resolved.revision, digest=resolved.digest
    )
    return BaseShapes(lineage, modules, base_template(tokenizer, template))
