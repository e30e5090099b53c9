"""For every row, the prompt that the server renders for its history begins what was trained."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.generation.conversation import Conversations
from server.api.requests.chat_and_completion import ChatBody
from server.core.errors import RequestError
from server.core.stack import AdapterStack
from server.model.rendering.render_worker import rendered
from server.model.tokenizer import TransformersTokenizer
from tests.unit.trainer.families import FAMILIES, Family
from trainer.config import DataSection
from trainer.data.cleaning.clean_rows import CleanRows
from trainer.data.cleaning.rules import CleaningLog
from trainer.data.conversation import Conversation, Turn
from trainer.data.formats.formats import choose_format
from trainer.data.formats.turn_lists import TurnReader
from trainer.data.row_task import SupervisedRows
from trainer.errors import TemplateError

CASES = Path(__file__).parents[3] / "data" / "cases"
ROWS_A_FILE = 2
FILES = (
    "glaive.jsonl", "indent.jsonl", "legacy_fc.jsonl", "messages_system.jsonl", "na_answers.csv",
    "pc_tools.jsonl", "tools_mixed.jsonl", "tools_nulls.parquet", "tools_strargs.jsonl",
    "train_flag.jsonl", "weight.jsonl",
)  # fmt: skip


def request(turns: Sequence[Turn], tools: str) -> dict[str, Any]:
    """What a client sends that has had this conversation: arguments as JSON text."""
    messages = []
    for turn in turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.tool_calls:
            message["tool_calls"] = [
                {**call, "function": {
                    "name": call["function"]["name"],
                    "arguments": json.dumps(call["function"]["arguments"]),
                }}
                for call in json.loads(turn.tool_calls)
            ]  # fmt: skip
        if turn.name is not None:
            message["name"] = turn.name
        if turn.tool_call_id is not None:
            message["tool_call_id"] = turn.tool_call_id
        messages.append(message)
    body: dict[str, Any] = {"model": "m", "messages": messages}
    return {**body, "tools": json.loads(tools)} if tools else body


def served(family: Family, body: Mapping[str, Any]) -> tuple[int, ...]:
    """The prompt's tokens as the server's own code renders them."""
    tokenizer = TransformersTokenizer(family.tokenizer(), eos_token_ids=frozenset())
    parsed = ChatBody.model_validate(body)
    stack = AdapterStack(())
    conversation = Conversations(tokenizer).build(parsed, stack, parsed.tool_use(), None)
    order = tokenizer.render_order(conversation.prompt, 4096)
    return tokenizer.encode_rendered(order, rendered(order))


def check_prefix(family: Family, conversation: Conversation) -> None:
    labeller = family.labeller()
    try:
        rows = labeller.label(conversation)
    except TemplateError:
        with pytest.raises((RequestError, jinja2.TemplateError)):
            served(family, request(conversation.prompt, conversation.tools))
        return
    assert rows
    for labelled in rows:
        part = labelled.conversation
        prompt = served(family, request(part.prompt, part.tools))
        assert labelled.row.token_ids[: len(prompt)] == prompt
        assert all(labelled.row.carries_loss[len(prompt) :])


def rows_of(name: str) -> Iterator[Conversation]:
    section = DataSection(train=name)
    rows = CleanRows(CASES / name, name, section, CleaningLog(), task=SupervisedRows())
    for index, (_, row) in enumerate(rows):
        if index < ROWS_A_FILE:
            yield row.conversation


@pytest.mark.parametrize("name", FILES)
def test_rows_that_people_have_begin_as_they_are_served(name: str) -> None:
    for conversation in rows_of(name):
        for family in FAMILIES:
            check_prefix(family, conversation)


WORDS = st.sampled_from(["add", "Rome", "您好", "a b", "{x}", "  indented\n", "1.0"])
VALUES = st.recursive(
    st.one_of(WORDS, st.integers(-5, 5), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row of one question, perhaps a call and its result, and an answer, in some spelling."""
    function = {"name": "f", "description": "d", "parameters": draw(st.sampled_from([
        {"type": "object", "properties": {"a": {"type": "string", "default": None}}}, {}, None,
    ]))}  # fmt: skip
    bare, wrapped = [function], [{"type": "function", "function": function}]
    tools = draw(
        st.sampled_from([bare, wrapped, json.dumps(bare), json.dumps(json.dumps(wrapped))])
    )
    arguments: Any = draw(st.dictionaries(WORDS, VALUES, max_size=2))
    for _ in range(draw(st.integers(0, 2))):
        arguments = json.dumps(arguments)
    call = {"name": "f", "arguments": arguments}
    calling = draw(
        st.sampled_from([{"function_call": call}, {"tool_calls": [{"id": "abcdefghi",
        "type": "function", "function": call}]}, {"tool_calls": json.dumps([call])}])
    )  # fmt: skip
    said = draw(st.one_of(st.none(), WORDS))
    turns: list[dict[str, Any]] = [{"role": "user", "content": draw(WORDS)}]
    if draw(st.booleans()):
        turns.append({"role": "assistant", "content": said, **calling})
        result = {"role": "tool", "content": draw(WORDS), "name": "f"}
        turns.append({**result, "tool_call_id": "abcdefghi"} if draw(st.booleans()) else result)
    turns.append({"role": "assistant", "content": draw(WORDS)})
    row: dict[str, Any] = {"messages": turns, "tools": tools}
    return {**row, "system": draw(WORDS)} if draw(st.booleans()) else row


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@settings(deadline=None, max_examples=15)
@given(row=rows())
def test_any_spelling_begins_as_it_is_served(family: Family, row: dict[str, Any]) -> None:
    converted = choose_format("auto", list(row), "x").convert(row, TurnReader())
    check_prefix(family, converted.conversation)


@pytest.mark.parametrize("name", ["tools_mixed.jsonl", "tools_strargs.jsonl", "legacy_fc.jsonl"])
def test_a_row_sent_as_it_stands_in_the_file_is_what_was_trained(name: str) -> None:
    family = next(family for family in FAMILIES if family.name == "qwen2_5")
    with (CASES / name).open(encoding="utf-8") as lines:
        raw = [json.loads(line) for line in lines][:ROWS_A_FILE]
    for row, conversation in zip(raw, rows_of(name), strict=True):
        functions = row.get("functions")
        tools = row.get("tools") or [{"type": "function", "function": f} for f in functions]
        body = {"model": "m", "messages": row["messages"][:-1], "tools": tools}
        (labelled,) = family.labeller().label(conversation)
        prompt = served(family, body)
        assert labelled.row.token_ids[: len(prompt)] == prompt
