"""Row formats as their authors write them."""

import pytest

from trainer.data.conversation import Turn
from trainer.data.formats.formats import FORMATS, choose_format
from trainer.data.formats.source_row import Row
from trainer.data.formats.turn_lists import TurnReader
from trainer.errors import UnknownFormatError, UnreadableRowError

ASKED = (Turn("user", "q"), Turn("assistant", "a"))


@pytest.mark.parametrize(
    ("name", "row", "turns"),
    [
        ("instruction", {"instruction": "q", "input": "", "output": "a"}, ASKED),
        ("instruction", {"instruction": "q", "output": "a"}, ASKED),
        (
            "instruction",
            {"instruction": "q", "input": "x", "output": "a", "system": "s"},
            (Turn("system", "s"), Turn("user", "q\n\nx"), Turn("assistant", "a")),
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            ASKED,
        ),
        (
            "messages",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "q"}]},
                    {"role": "assistant", "content": "a"},
                ]
            },
            ASKED,
        ),
        (
            "conversations",
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            ASKED,
        ),
        (
            "conversations",
            {"conversations": [{"from": "user", "value": "q"}], "system": "s"},
            (Turn("system", "s"), Turn("user", "q")),
        ),
        ("prompt", {"prompt": "q", "completion": "a"}, ASKED),
        (
            "prompt",
            {
                "prompt": [{"role": "user", "content": "q"}],
                "completion": [{"role": "assistant", "content": "a"}],
            },
            ASKED,
        ),
    ],
)
def test_rows_are_recognised_and_converted(name: str, row: Row, turns: tuple[Turn, ...]) -> None:
    row_format = choose_format("auto", list(row), "x.jsonl")
    assert row_format.name == name
    assert row_format.convert(row, TurnReader()).conversation.turns == turns


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "input": "", "output": None},
        {"instruction": 3, "output": "a"},
        {"instruction": "q", "input": ["x"], "output": "a"},
        {"messages": "hello"},
        {"messages": [{"role": "user"}]},
        {"messages": ["hello"]},
        {"conversations": None},
        {"conversations": [{"from": None, "value": "q"}]},
        {"prompt": "q", "completion": 1},
    ],
)
def test_rows_that_lack_what_their_format_promises(row: Row) -> None:
    with pytest.raises(UnreadableRowError):
        choose_format("auto", list(row), "x.jsonl").convert(row, TurnReader())


def test_unknown_roles_are_left_for_the_order_rule() -> None:
    row = {"conversations": [{"from": "tool", "value": "q"}]}
    converted = choose_format("auto", list(row), "x").convert(row, TurnReader())
    assert converted.conversation.turns == (Turn("tool", "q"),)


def test_unknown_columns_name_what_is_needed() -> None:
    with pytest.raises(UnknownFormatError, match="columns answer, question") as caught:
        choose_format("auto", ["question", "answer"], "x.csv")
    assert all(row_format.name in str(caught.value) for row_format in FORMATS)


def test_a_named_format_must_fit() -> None:
    with pytest.raises(UnknownFormatError, match="prompt: completion, prompt"):
        choose_format("prompt", ["instruction", "output"], "x.csv")
