"""Cleaning rules, each counted."""

from collections.abc import Sequence
from typing import Any

import pytest

from trainer.config import CleaningSection
from trainer.data.cleaning.cleaning import HeldOutPrompts, RowCleaner, sound_length
from trainer.data.cleaning.rules import CleaningLog, Rule
from trainer.data.conversation import Conversation, Turn, parse_key
from trainer.data.judged import DataRow


def talk(*pairs: str) -> Conversation:
    """`user:hi` style turns."""
    return Conversation(tuple(Turn(*pair.split(":", 1)) for pair in pairs))


def clean(
    rows: Sequence[Conversation], system: str | None = None, **rules: Any
) -> tuple[list[Conversation], CleaningLog]:
    log = CleaningLog()
    cleaner = RowCleaner(CleaningSection(**rules), system, log)
    cleaned = [cleaner.clean(DataRow(row)) for row in rows]
    return [row.conversation for row in cleaned if row is not None], log


def test_each_rule_is_counted() -> None:
    kept, log = clean(
        [
            talk("user:a", "assistant:b"),
            talk("system:s", "user:a", "assistant:b", "user:c", "assistant:d"),
            Conversation(()),
            talk("user:a", "assistant:  "),
            talk("assistant:b", "user:a", "assistant:b"),
            talk("user:a", "user:b", "assistant:c"),
            talk("user:a"),
            talk("system:s"),
            talk("tool:a", "assistant:b"),
            talk("user: a\n", "assistant:b"),
            talk("user:x", "assistant:y", "user:z"),
            talk("Alien:x", "assistant:y"),
            talk("system: ", "user:q", "assistant:r"),
        ],
        white_space="strip",
    )
    assert [len(c.turns) for c in kept] == [2, 5, 2, 2]
    assert kept[2] == talk("user:x", "assistant:y")
    assert log.counts == {
        Rule.UNREADABLE: 1,
        Rule.EMPTY_TURN: 1,
        Rule.WRONG_ORDER: 5,
        Rule.TRIMMED: 3,
        Rule.DUPLICATE: 1,
        Rule.UNANSWERED: 1,
        Rule.UNKNOWN_ROLE: 1,
        Rule.EMPTY_SYSTEM: 1,
    }
    assert log.examples[Rule.UNKNOWN_ROLE] == ["Alien: x"]


def test_repair_keeps_the_sound_beginning() -> None:
    broken = talk("user:a", "assistant:b", "user:c", "assistant:", "user:e", "assistant:f")
    odd = talk("user:m", "assistant:n", "alien:o", "assistant:p")
    kept, log = clean([broken, odd, talk("alien:x", "user:y")], roles="repair")
    assert kept == [talk("user:a", "assistant:b"), talk("user:m", "assistant:n")]
    assert log.counts == {Rule.REPAIRED: 2, Rule.UNKNOWN_ROLE: 1}


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("user assistant user assistant", 4),
        ("system user assistant user", 3),
        ("user assistant assistant", 2),
        ("assistant user", 0),
        ("user tool", 0),
        ("text", 1),
        ("system", 0),
    ],
)
def test_sound_length(roles: str, expected: int) -> None:
    assert sound_length(tuple(Turn(role, "x") for role in roles.split())) == expected


def test_tool_turns_follow_a_call_and_lead_to_an_answer() -> None:
    call = Turn("assistant", "", '[{"function": {"name": "f"}}]')
    turns = (Turn("user", "q"), call, Turn("tool", "1"), Turn("tool", "2"), Turn("assistant", "a"))
    assert sound_length(turns) == 5
    assert sound_length((*turns[:2], Turn("user", "again"))) == 2
    conversation = Conversation(turns, tools="[1]")
    assert parse_key(conversation.key) == conversation


@pytest.mark.parametrize(
    ("action", "kept", "rule"),
    [
        ("remove", "ab\nc", Rule.CONTROL_REMOVED),
        ("drop", None, Rule.CONTROL_DROPPED),
        ("keep", "a\x00b\r\nc", Rule.CONTROL_KEPT),
    ],
)
def test_control_characters(action: str, kept: str | None, rule: Rule) -> None:
    row = talk("user:q", "assistant:a\x00b\r\nc")
    cleaned, log = clean([row, talk("user:fine", "assistant:x")], control_characters=action)
    assert [row.answer for row in cleaned[:-1]] == ([] if kept is None else [kept])
    assert log.counts == {rule: 1}


@pytest.mark.parametrize(
    ("action", "kept", "rule"),
    [
        ("strip", "Hi & you", Rule.HTML_STRIPPED),
        ("drop", None, Rule.HTML_DROPPED),
        ("keep", "<p>Hi &amp; you</p>", Rule.HTML_KEPT),
    ],
)
def test_html_leftovers(action: str, kept: str | None, rule: Rule) -> None:
    cleaned, log = clean([talk("user:q", "assistant:<p>Hi &amp; you</p>")], html=action)
    assert [row.answer for row in cleaned] == ([] if kept is None else [kept])
    assert log.counts == {rule: 1}


def test_short_answers_and_a_system_text_for_all() -> None:
    kept, log = clean(
        [talk("user:q", "assistant:ok"), talk("user:q", "assistant:okay"), talk("text:plain")],
        "Be kind.",
        min_answer_chars=3,
    )
    assert kept == [talk("system:Be kind.", "user:q", "assistant:okay"), talk("text:plain")]
    assert log.counts == {Rule.SHORT_ANSWER: 1, Rule.SYSTEM_ADDED: 1}


LONG = "The quick brown fox jumps over the lazy dog, " * 3 + "and then it tells all of its friends"


@pytest.mark.parametrize(("threshold", "num_kept"), [(None, 2), (0.8, 1)])
def test_near_duplicates_are_dropped_when_asked_and_counted_anyway(
    threshold: float | None, num_kept: int
) -> None:
    words = " ".join(f"w{i}" for i in range(100))
    rows = [talk("user:q", f"assistant:{words}"), talk("user:q", f"assistant:{words} more")]
    kept, log = clean(rows, near_duplicates=threshold)
    assert len(kept) == num_kept
    rule = Rule.NEAR_DUPLICATE_KEPT if threshold is None else Rule.NEAR_DUPLICATE
    assert log.counts == {rule: 1}


def test_duplicates_can_stay() -> None:
    kept, log = clean([talk("user:a", "assistant:b")] * 2, duplicates="keep")
    assert len(kept) == 2
    assert log.counts == {Rule.DUPLICATE_KEPT: 1}


def test_overlap_is_by_prompt_and_leaves_the_held_out_row() -> None:
    log = CleaningLog()
    words = " ".join(f"w{i}" for i in range(100))
    held_out = [talk("user:a", "assistant:other"), talk(f"user:{words}", "assistant:b")]
    prompts = HeldOutPrompts(held_out, CleaningSection(), log)
    assert not prompts.allows(talk("user:a", "assistant:1"))
    assert prompts.allows(talk("user:b", "assistant:2"))
    assert prompts.allows(talk(f"user:{words} more", "assistant:3"))
    assert log.counts == {Rule.OVERLAP: 1, Rule.NEAR_OVERLAP_KEPT: 1}
    strict = HeldOutPrompts(held_out, CleaningSection(near_duplicates=0.9), log)
    assert not strict.allows(talk(f"user:{words} more", "assistant:3"))
    lax = HeldOutPrompts(held_out, CleaningSection(eval_overlap="keep"), log)
    assert lax.allows(talk("user:a", "assistant:1"))
