"""Rules that a row must pass, each one counted."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace

from trainer.config import CleaningSection
from trainer.data.cleaning.hash_table import HashTable
from trainer.data.cleaning.near_duplicates import REPORT_THRESHOLD, NearDuplicateIndex
from trainer.data.cleaning.rules import CleaningLog, Rule
from trainer.data.cleaning.text_rules import (
    has_control_characters,
    has_html_leftovers,
    without_control_characters,
    without_html_leftovers,
)
from trainer.data.conversation import ASSISTANT, SYSTEM, TEXT, TOOL, USER, Conversation, Turn
from trainer.data.judged import DataRow

_ROLES = frozenset({SYSTEM, USER, ASSISTANT, TOOL, TEXT})

_Turns = tuple[Turn, ...]


class RowCleaner:
    """Applies every rule that looks at one file alone, row by row, and counts into `log`.

    Of rows that passed it keeps an 8-byte hash each (at most 36 bytes with its table), and a
    signature of the first 200,000.
    `system` is put before rows that have no system turn of their own.
    """

    def __init__(self, section: CleaningSection, system: str | None, log: CleaningLog) -> None:
        self._section = section
        self._system = system
        self._log = log
        self._seen = HashTable()
        self._near = NearDuplicateIndex(section.near_duplicates or REPORT_THRESHOLD)

    def clean(self, row: DataRow) -> DataRow | None:
        """The row as it is trained on, or None when a rule drops it."""
        conversation, rejected = row.conversation, row.rejected
        if not conversation.turns:
            self._log.record(Rule.UNREADABLE, "no turns")
            return None
        turns = self._tidy(conversation.turns)
        if turns is None:
            return None
        if rejected is not None:
            rejected = self._tidy_answer(rejected)
            if rejected is None:
                return None
            if _same(rejected, turns[-1]):
                self._log.record(Rule.SAME_ANSWERS, rejected.content)
                return None
        cleaned = replace(row, conversation=replace(conversation, turns=turns), rejected=rejected)
        if not cleaned.conversation.num_trained:
            self._log.record(Rule.UNTRAINED, _beginning(turns))
            return None
        return None if self._is_known(cleaned.judged) else cleaned

    def _tidy(self, turns: _Turns) -> _Turns | None:
        """The turns by every rule but those about duplicates; None when one drops them."""
        cleaned = self._clean_text(turns)
        if cleaned is not None:
            cleaned = self._shape(cleaned)
        if cleaned is None or self._is_short(cleaned[-1]):
            return None
        if self._system and cleaned[0].role not in (SYSTEM, TEXT):
            self._log.record(Rule.SYSTEM_ADDED, _beginning(cleaned))
            return (Turn(SYSTEM, self._system), *cleaned)
        return cleaned

    def _tidy_answer(self, answer: Turn) -> Turn | None:
        """Another answer to turns that `_tidy` let through; None when a rule drops it."""
        cleaned = self._clean_text((answer,))
        if cleaned is None:
            return None
        if _fault(cleaned) is not None:
            self._log.record(Rule.EMPTY_TURN, "")
            return None
        return None if self._is_short(cleaned[0]) else cleaned[0]

    def _is_short(self, answer: Turn) -> bool:
        if len(answer.content.strip()) >= self._section.min_answer_chars or answer.tool_calls:
            return False
        self._log.record(Rule.SHORT_ANSWER, _beginning((answer,)))
        return True

    def _clean_text(self, turns: _Turns) -> _Turns | None:
        """Control characters, HTML and white space; None when one of them drops the row."""
        section = self._section
        for action, found, cleaned, rules in (
            (
                section.control_characters,
                has_control_characters,
                without_control_characters,
                (Rule.CONTROL_REMOVED, Rule.CONTROL_DROPPED, Rule.CONTROL_KEPT),
            ),
            (
                section.html,
                has_html_leftovers,
                without_html_leftovers,
                (Rule.HTML_STRIPPED, Rule.HTML_DROPPED, Rule.HTML_KEPT),
            ),
        ):
            if not any(found(turn.content) for turn in turns):
                continue
            changed, dropped, kept = rules
            rule = {"drop": dropped, "keep": kept}.get(action, changed)
            self._log.record(rule, _beginning(turns, found))
            if rule == dropped:
                return None
            if rule == changed:
                turns = tuple(replace(turn, content=cleaned(turn.content)) for turn in turns)
        if section.white_space == "keep":
            return turns
        stripped = tuple(replace(turn, content=turn.content.strip()) for turn in turns)
        if stripped != turns:
            self._log.record(Rule.TRIMMED, _beginning(turns))
        return stripped

    def _shape(self, turns: _Turns) -> _Turns | None:
        """Turns in an order that a template takes, ending with an answer; None without one."""
        if turns[0].role == SYSTEM and turns[0].is_empty:
            self._log.record(Rule.EMPTY_SYSTEM, _beginning(turns))
            turns = turns[1:]
        if turns and turns[-1].role == USER and len(turns) > 1 and _fault(turns) is None:
            self._log.record(Rule.UNANSWERED, _beginning(turns))
            turns = turns[:-1]
        sound = turns[: sound_length(turns)]
        fault = _fault(turns) or (None if sound == turns else Rule.WRONG_ORDER)
        if fault is None:
            return turns
        is_dropped = self._section.roles == "drop" or not sound
        self._log.record(fault if is_dropped else Rule.REPAIRED, _beginning(turns))
        return None if is_dropped else sound

    def _is_known(self, conversation: Conversation) -> bool:
        """Whether a duplicate was found that is to be dropped; remembers the row if not."""
        digest = hashlib.blake2b(conversation.key.encode(), digest_size=8).digest()
        key = int.from_bytes(digest)
        if self._seen.get(key) is not None:
            is_dropped = self._section.duplicates == "drop"
            rule = Rule.DUPLICATE if is_dropped else Rule.DUPLICATE_KEPT
            self._log.record(rule, _beginning(conversation.turns))
            return is_dropped
        self._seen.set_default(key, 1)
        if self._near.add(_spoken(conversation.turns)):
            is_dropped = self._section.near_duplicates is not None
            rule = Rule.NEAR_DUPLICATE if is_dropped else Rule.NEAR_DUPLICATE_KEPT
            self._log.record(rule, _beginning(conversation.turns))
            return is_dropped
        return False


class HeldOutPrompts:
    """The prompts of the held-out rows, so that training rows with the same one can be told."""

    def __init__(
        self, held_out: Iterable[Conversation], section: CleaningSection, log: CleaningLog
    ) -> None:
        self._section = section
        self._log = log
        self._keys: set[str] = set()
        self._near = NearDuplicateIndex(section.near_duplicates or REPORT_THRESHOLD)
        for conversation in held_out:
            self._keys.add(conversation.held_out_key)
            self._near.add(_asked(conversation))

    def allows(self, conversation: Conversation) -> bool:
        """Whether a training row may stay; those answers would be known before evaluation."""
        section = self._section
        if conversation.held_out_key in self._keys:
            is_dropped = section.eval_overlap == "drop"
            rule = Rule.OVERLAP if is_dropped else Rule.OVERLAP_KEPT
        elif self._near.find(_asked(conversation)):
            is_dropped = section.eval_overlap == "drop" and section.near_duplicates is not None
            rule = Rule.NEAR_OVERLAP if is_dropped else Rule.NEAR_OVERLAP_KEPT
        else:
            return True
        self._log.record(rule, _beginning(conversation.turns))
        return not is_dropped


def sound_length(turns: _Turns) -> int:
    """How many turns from the start are in order and end with an answer.

    In order: an optional system turn, then user and assistant in turn; after an assistant's turn
    that calls tools come tool turns and the assistant again. No turn but one with calls is empty.
    """
    if len(turns) == 1 and turns[0].role == TEXT:
        return 1
    length = 0
    before: Turn | None = None
    for position, turn in enumerate(turns):
        if turn.role == SYSTEM and position == 0:
            continue
        if turn.role not in _followers(before) or turn.is_empty:
            break
        before = turn
        if turn.role == ASSISTANT:
            length = position + 1
    return length


def _followers(before: Turn | None) -> tuple[str, ...]:
    """The roles that may speak after `before`."""
    if before is None:
        return (USER,)
    if before.role == ASSISTANT:
        return (TOOL,) if before.tool_calls else (USER,)
    return (TOOL, ASSISTANT) if before.role == TOOL else (ASSISTANT,)


def _fault(turns: _Turns) -> Rule | None:
    if any(turn.role not in _ROLES for turn in turns):
        return Rule.UNKNOWN_ROLE
    if not turns or any(turn.is_empty for turn in turns):
        return Rule.EMPTY_TURN
    return None


def _same(one: Turn, other: Turn) -> bool:
    return (one.content.strip(), one.tool_calls) == (other.content.strip(), other.tool_calls)


def _beginning(turns: _Turns, found: Callable[[str], bool] = bool) -> str:
    """Where the row can be recognised: its first turn in which `found` something, not system's."""
    spoken = [turn for turn in turns if turn.role != SYSTEM] or list(turns)
    turn = next((turn for turn in spoken if found(turn.content)), None)
    return "" if turn is None else f"{turn.role}: {turn.content}"


def _spoken(turns: _Turns) -> str:
    """All but the system text, which many rows share."""
    return "\n".join(turn.content for turn in turns if turn.role != SYSTEM)


def _asked(conversation: Conversation) -> str:
    return _spoken(conversation.prompt or conversation.turns)
