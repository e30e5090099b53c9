"""What a template sees of tools and calls, whatever their spelling."""

import json
from typing import Any

import pytest

from adapters.base.chat_messages import (
    ShapeError,
    parsed_arguments,
    template_calls,
    template_message,
    template_tools,
)

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "", "type": "function", "function": {"name": "f", "arguments": {"a": None}}}


@pytest.mark.parametrize(
    "value",
    [
        [FUNCTION], [TOOL], FUNCTION, TOOL, json.dumps([FUNCTION]), json.dumps(json.dumps([TOOL])),
        [json.dumps(FUNCTION)], [{"type": "function", **FUNCTION}],
        [{**FUNCTION, "parameters": json.dumps(FUNCTION["parameters"])}],
    ],
)  # fmt: skip
def test_every_spelling_of_a_tool_is_the_same(value: Any) -> None:
    assert template_tools(value) == [TOOL]


@pytest.mark.parametrize("value", [None, "", " ", [], "[]"])
def test_no_tools(value: Any) -> None:
    assert template_tools(value) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("get_weather(city)", "tools: 'get_weather\\(city\\)' is no JSON"),
        ("3", "tools: 3 is no list"),
        ([3], r"tools\[0\]: 3 is no object"),
        ([{"name": ""}], r"tools\[0\].function.name: '' is no function's name"),
        ([{"type": "retrieval"}], r"tools\[0\].type: 'retrieval' isn't known"),
        ([{"name": "f", "parameters": "x"}], r"tools\[0\].function.parameters: 'x' is no JSON"),
    ],
)
def test_what_is_no_tool_is_refused(value: Any, text: str) -> None:
    with pytest.raises(ShapeError, match=text):
        template_tools(value)


@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: {"type": "function", "function": f}])
def test_every_spelling_of_a_call_is_the_same(times: int, wrap: Any) -> None:
    arguments: Any = {"a": None}
    for _ in range(times):
        arguments = json.dumps(arguments)
    call = wrap({"name": "f", "arguments": arguments})
    assert template_calls([call]) == template_calls(json.dumps(call)) == [CALL]


def test_arguments_that_are_no_object_are_refused_in_data_and_kept_as_text_when_served() -> None:
    with pytest.raises(ShapeError, match="neither an object nor the JSON of one"):
        template_calls([{"name": "f", "arguments": "a=1"}])
    assert parsed_arguments("a=1") == "a=1"
    assert parsed_arguments('"a"') == "a"
    assert parsed_arguments("") == {}


def test_older_words_for_roles() -> None:
    assert template_message("developer", "x") == {"role": "system", "content": "x"}
    assert template_message("function", "x", name="f") == {
        "role": "tool", "content": "x", "name": "f",
    }  # fmt: skip
