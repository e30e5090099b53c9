"""Whether the chat template in a manifest is what it says, and whether it is the base's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adapters.format.manifest import TemplateRecord

MAX_TEMPLATE_CHARS = 262_144
MAX_GOLDEN_MESSAGES = 64
MAX_GOLDEN_CHARS = 65_536

GoldenTokens = Callable[[Sequence[Mapping[str, str]]], Sequence[int] | None]
"""Renders messages with the base's own template, ready for an answer, and returns their tokens;
None where the template refuses them."""

_CLOCK = "strftime_now"
"""A template that asks for the day renders other tokens every day."""


@dataclass(frozen=True, slots=True)
class BaseTemplate:
    """The base's chat template, by hash (None where it has none), and what it makes of messages."""

    hash: str | None
    tokens: GoldenTokens


def record_problem(record: TemplateRecord) -> str | None:
    """Why nobody may believe the record, whatever the base; None when it agrees with itself."""
    if len(record.text) > MAX_TEMPLATE_CHARS:
        return f"its chat template has {len(record.text)} characters; at most {MAX_TEMPLATE_CHARS}"
    if record.hash != record.text_hash:
        return (
            f"its chat template hashes to {record.text_hash}, not {record.hash} as its manifest "
            "claims"
        )
    num_chars = sum(len(text) for message in record.golden_messages for text in message.values())
    if len(record.golden_messages) > MAX_GOLDEN_MESSAGES or num_chars > MAX_GOLDEN_CHARS:
        return (
            f"it has {len(record.golden_messages)} golden messages of {num_chars} characters; at "
            f"most {MAX_GOLDEN_MESSAGES} of {MAX_GOLDEN_CHARS} together"
        )
    return None


def golden_problem(record: TemplateRecord, base: BaseTemplate) -> str | None:
    """How the base's tokens of the golden messages differ from the recorded ones.

    None too where the template isn't the base's: somebody else's is never run to find out.
    """
    if record.text_hash != base.hash or not record.golden_messages or _CLOCK in record.text:
        return None
    found = base.tokens(record.golden_messages)
    if found is not None and list(found) == list(record.golden_token_ids):
        return None
    made = "refuses" if found is None else f"makes {len(found)} others of"
    return (
        f"its manifest records {len(record.golden_token_ids)} golden tokens, and this base {made} "
        "the same messages: it was trained with another tokenizer, or the manifest isn't its own"
    )


def foreign_problem(record: TemplateRecord, base: BaseTemplate) -> str | None:
    """Why the operator has to allow the template first; None for the base's own."""
    if not record.text or record.text_hash == base.hash:
        return None
    return (
        f"it brings a chat template of its own ({record.text_hash}), and this base's is "
        f"{base.hash or 'none'}. A template sees and shapes every prompt: read it, then import "
        "with `adapters import --allow-template`, or delete the manifest to import without it"
    )
