"""What a config's document says of a key, before anything of it is validated."""

from collections.abc import Mapping
from typing import Any

from trainer.config.section import Section


def written_value(document: Mapping[str, Any], section: str, key: str) -> Any:
    """The value as it was written; None where it, or its section, wasn't or is no mapping."""
    inner = document.get(section)
    return inner.get(key) if isinstance(inner, Mapping) else None


def is_changed(document: Mapping[str, Any], section: str, model: type[Section], key: str) -> bool:
    """Whether the key is given and isn't at its default, which a written-out config repeats."""
    default = model.model_fields[key].get_default(call_default_factory=True)
    return written_value(document, section, key) not in (None, default)
