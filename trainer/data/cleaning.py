"""Rules that a row must pass, each one counted."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from trainer.data.conversation import ASSISTANT, SYSTEM, USER, Conversation, Turn, turns_key


class Rule(StrEnum):
    """What was done to rows, as the report and the manifest name it."""

    UNREADABLE = "dropped: fields missing or of the wrong type"
    EMPTY_TURN = "dropped: an empty turn"
    WRONG_ORDER = "dropped: roles out of order"
    DUPLICATE = "dropped: exact duplicate"
    OVERLAP = "dropped from train: prompt is also held out"
    TOO_LONG = "dropped: longer than max_length"
    TRUNCATED = "truncated to max_length"
    CUT_ANSWER = "dropped: no answer left within max_length"
    UNANSWERED = "last turn without an answer cut off"
    TRIMMED = "white space around a turn removed"


@dataclass(frozen=True, slots=True)
class CleanRows:
    """Conversations that passed, and how many rows each rule touched."""

    conversations: tuple[Conversation, ...]
    counts: Counter[Rule]


def clean_rows(rows: Iterable[Conversation | None]) -> CleanRows:
    """Apply every rule that looks at one file alone. None stands for an unreadable row."""
    counts: Counter[Rule] = Counter()
    kept: dict[str, Conversation] = {}
    for row in rows:
        conversation = _clean(row, counts)
        if conversation is None:
            continue
        if conversation.key in kept:
            counts[Rule.DUPLICATE] += 1
        else:
            kept[conversation.key] = conversation
    return CleanRows(tuple(kept.values()), counts)


def _clean(row: Conversation | None, counts: Counter[Rule]) -> Conversation | None:
    if row is None or not row.turns:
        counts[Rule.UNREADABLE] += 1
        return None
    turns = tuple(Turn(turn.role, turn.content.strip()) for turn in row.turns)
    if any(not turn.content for turn in turns):
        counts[Rule.EMPTY_TURN] += 1
        return None
    if turns[-1].role == USER and len(turns) > 1:
        counts[Rule.UNANSWERED] += 1
        turns = turns[:-1]
    if not _in_order(turns):
        counts[Rule.WRONG_ORDER] += 1
        return None
    if any(new.content != old.content for new, old in zip(turns, row.turns, strict=False)):
        counts[Rule.TRIMMED] += 1
    return Conversation(turns)


def _in_order(turns: tuple[Turn, ...]) -> bool:
    """An optional system turn, then user and assistant in turn, ending with an answer."""
    rest = turns[1:] if turns[0].role == SYSTEM else turns
    expected = [USER, ASSISTANT] * (len(rest) // 2)
    return bool(rest) and [turn.role for turn in rest] == expected


def without_overlap(
    train: Iterable[Conversation], held_out: Iterable[Conversation], counts: Counter[Rule]
) -> tuple[Conversation, ...]:
    """`train` less every row whose prompt is also in `held_out`: those answers would be known."""
    prompts = {turns_key(conversation.prompt) for conversation in held_out}
    kept = []
    for conversation in train:
        if turns_key(conversation.prompt) in prompts:
            counts[Rule.OVERLAP] += 1
        else:
            kept.append(conversation)
    return tuple(kept)
