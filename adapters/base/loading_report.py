"""Whether every weight of a model came out of its files, and every weight in them had a place."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from adapters.base.architecture import is_sense_weight
from adapters.base.errors import BaseUnreadableError

_MAX_NAMES = 5


def check_report(info: Mapping[str, Any], *, dropped: Collection[str] = ()) -> None:
    """Judge what `from_pretrained(..., output_loading_info=True)` says.

    transformers makes up weights that it doesn't find, others at each start. Parts of the model
    whose names begin with one of `dropped` may lack weights or have others, and files may hold
    weights of what sees and hears. What transformers itself passes over (rotary buffers, heads for
    speculation) isn't in `info`. Raises
    `BaseUnreadableError` with the names.
    """

    def counts(name: str) -> bool:
        return not any(name == part or name.startswith(f"{part}.") for part in dropped)

    mismatched = sorted((n, *s) for n, *s in info["mismatched_keys"] if counts(n))
    if mismatched:
        shown = [f"{n} ({tuple(a)} for {tuple(b)})" for n, a, b in mismatched]
        raise BaseUnreadableError(
            f"weights have other shapes than config.json says: {_listed(shown)}; the config and "
            "the weights are of different models"
        )
    if missing := sorted(filter(counts, info["missing_keys"])):
        raise BaseUnreadableError(
            f"its files lack weights of the model: {_listed(missing)}; fetch it again, or check "
            "that config.json (tie_word_embeddings too) is of the same model"
        )
    unexpected = sorted(n for n in info["unexpected_keys"] if counts(n) and not is_sense_weight(n))
    if unexpected:
        raise BaseUnreadableError(
            f"its files hold weights that the model has no place for: {_listed(unexpected)}; "
            "check that config.json is of the same model"
        )
    if messages := info["error_msgs"]:
        raise BaseUnreadableError(f"its weights can't be read: {_listed(messages)}")


def _listed(names: Iterable[str]) -> str:
    """The first few of them, and how many there are besides."""
    listed = list(names)
    more = len(listed) - _MAX_NAMES
    return ", ".join(listed[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
