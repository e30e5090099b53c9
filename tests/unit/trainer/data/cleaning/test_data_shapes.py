"""Rows as their authors write them, from `examples/data_shapes/`."""

from pathlib import Path
from typing import Any

import pytest

from trainer.config import CleaningSection, DataSection
from trainer.data.cleaning.clean_rows import CleanRows
from trainer.data.cleaning.rules import CleaningLog, Rule
from trainer.data.conversation import Conversation
from trainer.data.row_task import SupervisedRows
from trainer.errors import DataError

SHAPES = Path(__file__).parents[5] / "examples" / "data_shapes"


def read(
    name: str, columns: dict[str, str] | None = None, **rules: Any
) -> tuple[str, list[Conversation], CleaningLog]:
    """The format's name, the rows that passed, and what was done."""
    path = SHAPES / f"{name}.jsonl"
    log = CleaningLog()
    section = DataSection(train=str(path), columns=columns or {}, cleaning=CleaningSection(**rules))
    rows = CleanRows(path, name, section, log, task=SupervisedRows())
    return rows.row_format.name, [row.conversation for _, row in rows], log


def roles(conversation: Conversation) -> str:
    return " ".join(turn.role for turn in conversation.turns)


@pytest.mark.parametrize(
    ("name", "row_format", "expected"),
    [
        ("alpaca", "instruction", ["user assistant", "user assistant"]),
        ("belle_instruction", "instruction", ["user assistant", "user assistant"]),
        ("belle_multiturn", "conversations", ["user assistant user assistant"]),
        ("sharegpt", "conversations", ["user assistant user assistant"]),
        ("sharegpt_tools", "conversations", ["user assistant tool assistant"]),
        ("openorca", "openorca", ["user assistant", "system user assistant"]),
        ("ultrachat", "ultrachat", ["user assistant user assistant"]),
        ("ultrachat_200k", "messages", ["user assistant user assistant"]),
        ("openai_messages", "messages", ["system user assistant"]),
        ("openai_tools", "messages", ["user assistant tool assistant"]),
        ("prompt_completion", "prompt", ["user assistant"]),
        ("text", "text", ["text", "text"]),
    ],
)
def test_shape_is_recognised(name: str, row_format: str, expected: list[str]) -> None:
    found, rows, _ = read(name)
    assert found == row_format
    assert [roles(row) for row in rows] == expected


def test_alpaca_input_follows_its_instruction() -> None:
    _, rows, _ = read("alpaca")
    assert rows[1].turns[0].content == "Classify the word as noun or verb.\n\nrun"


def test_tool_calls_of_both_spellings_are_the_same_kind_of_turn() -> None:
    _, (sharegpt,), _ = read("sharegpt_tools")
    _, (openai,), _ = read("openai_tools")
    assert '"name": "get_weather"' in sharegpt.turns[1].tool_calls
    assert '"name": "add"' in openai.turns[1].tool_calls
    assert '"get_weather"' in sharegpt.tools
    assert "null" not in openai.turns[1].tool_calls


def test_broken_sharegpt_is_counted_rule_by_rule() -> None:
    _, rows, log = read("sharegpt_broken", html="strip")
    assert [row.turns[0].content for row in rows] == [
        "Where is Rome?", "Make a list", "What is 2+2?", "null byte\u200b?",
        "Write a paragraph tag in HTML",
    ]  # fmt: skip
    assert rows[1].answer == "first & foremost\n\nsecond"
    assert rows[4].answer == "```html\n<p>Hello</p>\n```"
    assert log.counts == {
        Rule.WRONG_ORDER: 2, Rule.EMPTY_TURN: 1, Rule.HTML_STRIPPED: 1, Rule.EMPTY_SYSTEM: 1,
        Rule.UNANSWERED: 1, Rule.UNKNOWN_ROLE: 1, Rule.UNREADABLE: 1, Rule.CONTROL_REMOVED: 1,
        Rule.DUPLICATE: 1,
    }  # fmt: skip


def test_columns_can_be_named() -> None:
    mapping = {"instruction": "question_text", "output": "reply"}
    row_format, rows, _ = read("renamed_columns", mapping)
    assert row_format == "instruction"
    assert roles(rows[0]) == "user assistant"
    with pytest.raises(DataError, match=r"data.columns names nope, but renamed_columns has only"):
        read("renamed_columns", {"instruction": "nope"})
