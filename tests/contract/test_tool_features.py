"""Tools, and shapes that are refused, through the `openai` package, whole and streamed."""

import json
from typing import Any

import openai
import pytest

from tests.fakes.api_app import FakeServing
from tests.fakes.api_grammars import FakeGrammar
from tests.fakes.openai_client import CALL, HELLO, WEATHER, Connect, connect, saying

__all__ = ["connect"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"extra_body": {"guided_regex": "nonsense"}}, "guided_regex"),
        ({"extra_body": {"guided_json": "{nonsense"}}, "guided_json"),
        ({"extra_body": {"guided_regex": "a", "guided_choice": ["b"]}}, "guided_choice"),
        (
            {"response_format": {"type": "json_object"}, "extra_body": {"guided_regex": "a"}},
            "guided_regex",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"extra_body": {"structured_outputs": {"structural_tag": "x"}}}, None),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "function", "function": {"name": "nobody"}},
            },
            "tool_choice",
        ),
        ({"tools": [{"type": "code_interpreter"}]}, None),
        ({"functions": [WEATHER["function"]], "tools": [WEATHER]}, "functions"),
    ],
)
def test_wrong_shapes_and_tools_are_refused_by_name(
    connect: Connect, fields: dict[str, Any], param: str | None
) -> None:
    serving = FakeServing()
    with pytest.raises(openai.BadRequestError) as caught:
        connect(serving).chat.completions.create(model="sql", messages=HELLO, **fields)
    if param is not None:
        assert caught.value.param == param
    assert serving.engine.requests == []


def test_tool_calls_whole_and_streamed(connect: Connect) -> None:
    client = connect(saying(f"Let me see.\n{CALL}\n{CALL}"))
    whole = client.chat.completions.create(model="sql", messages=HELLO, tools=[WEATHER]).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content == "Let me see."
    calls: Any = whole.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Zürich"}] * 2
    assert calls[0].id != calls[1].id
    content, order, arguments = "", [], {}
    for chunk in client.chat.completions.create(
        model="sql", messages=HELLO, tools=[WEATHER], stream=True
    ):
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            assert call.function is not None
            if call.id:
                order.append((call.index, call.function.name, call.type))
                arguments[call.index] = ""
            arguments[call.index] += call.function.arguments or ""
        reason = choice.finish_reason
    assert reason == "tool_calls"
    assert content == "Let me see."
    assert order == [(0, "weather", "function"), (1, "weather", "function")]
    assert [json.loads(text) for text in arguments.values()] == [{"city": "Zürich"}] * 2


def test_an_answer_without_a_call_is_plain(connect: Connect) -> None:
    serving = saying("It's sunny.")
    answer = connect(serving).chat.completions.create(
        model="sql", messages=HELLO, tools=[WEATHER], tool_choice="auto"
    )
    assert answer.choices[0].message.content == "It's sunny."
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
    assert serving.engine.requests[0].sampling.grammar is None


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"parallel_tool_calls": False},
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            }
        },
    ],
)
def test_what_must_be_called_is_in_the_grammar(connect: Connect, fields: dict[str, Any]) -> None:
    serving = saying(CALL)
    answer = connect(serving).chat.completions.create(
        model="sql", messages=HELLO, tools=[WEATHER], **fields
    )
    assert answer.choices[0].message.content is None
    assert answer.choices[0].message.tool_calls is not None
    grammar = serving.engine.requests[0].sampling.grammar
    assert isinstance(grammar, FakeGrammar)
    assert r"{\"name\": \"weather\"" in grammar.spec.text


def test_none_means_no_tools_at_all(connect: Connect) -> None:
    serving = saying(CALL)
    answer = connect(serving).chat.completions.create(
        model="sql", messages=HELLO, tools=[WEATHER], tool_choice="none"
    )
    assert answer.choices[0].message.content == CALL
    assert b"weather" not in bytes(serving.engine.requests[0].prompt_token_ids)


def test_the_older_functions(connect: Connect) -> None:
    client = connect(saying(CALL))
    answer = client.chat.completions.create(
        model="sql", messages=HELLO, functions=[WEATHER["function"]], function_call="auto"
    ).choices[0]
    assert answer.finish_reason == "function_call"
    assert answer.message.function_call is not None
    assert json.loads(answer.message.function_call.arguments) == {"city": "Zürich"}
    name, arguments = "", ""
    for chunk in client.chat.completions.create(
        model="sql", messages=HELLO, functions=[WEATHER["function"]], stream=True,
        function_call={"name": "weather"},
    ):  # fmt: skip
        if call := chunk.choices[0].delta.function_call:
            name += call.name or ""
            arguments += call.arguments or ""
    assert (name, json.loads(arguments)) == ("weather", {"city": "Zürich"})


def test_a_conversation_with_calls_and_results_is_rendered(connect: Connect) -> None:
    serving = saying("x")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}
    connect(serving).chat.completions.create(
        model="sql",
        messages=[
            *HELLO,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
        tools=[WEATHER],
    )
    prompt = bytes(serving.engine.requests[0].prompt_token_ids).decode()
    assert prompt.startswith("system: You may call one or more functions")
    assert '"name": "weather"' in prompt
    assert 'assistant: <tool_call>\n{"name": "weather", "arguments": {"a": 1}}' in prompt
    assert "user: <tool_response>\nsunny\n</tool_response>" in prompt
