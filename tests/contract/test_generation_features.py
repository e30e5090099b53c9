"""Each field of chat and completions through the `openai` package, whole and streamed."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import openai
import pytest

from server.core.grammar import GrammarKind
from tests.fakes.api_app import INFO, FakeServing
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_grammars import FakeGrammar
from tests.fakes.api_server import serve

HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
WIDE = replace(INFO, max_model_len=2048)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
Connect = Callable[[FakeServing], openai.OpenAI]


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def connect(serving: FakeServing) -> openai.OpenAI:
            address = stack.enter_context(serve(serving.app()))
            return stack.enter_context(
                openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20)
            )

        yield connect


def saying(text: str) -> FakeServing:
    return FakeServing(FakeEngine(lambda request, choice: text), info=WIDE)


def test_every_sampling_field_reaches_the_engine(connect: Connect) -> None:
    serving = FakeServing()
    connect(serving).chat.completions.create(
        model="sql", messages=HELLO, presence_penalty=0.5, frequency_penalty=-1, max_tokens=50,
        logit_bias={"65": 3, "66": -100},
        extra_body={
            "repetition_penalty": 1.2, "min_p": 0.1, "min_tokens": 4, "bad_words": ["no"],
            "allowed_token_ids": [65, 66, 67], "stop_token_ids": [67],
            "include_stop_str_in_output": True, "skip_special_tokens": False,
        },
    )  # fmt: skip
    sampling = serving.engine.requests[0].sampling
    assert (sampling.min_p, sampling.min_tokens) == (0.1, 4)
    assert (sampling.stop_token_ids, sampling.includes_stop) == ({67}, True)
    assert not sampling.skips_special_tokens
    rules = sampling.rules
    assert rules is not None
    assert (rules.presence_penalty, rules.frequency_penalty) == (0.5, -1)
    assert rules.repetition_penalty == 1.2
    assert dict(rules.logit_bias) == {65: 3, 66: -100}
    assert rules.allowed_token_ids == (65, 66, 67)
    assert rules.banned_sequences == (tuple(b"no"), tuple(b" no"))
    assert rules.withheld_token_ids == (67, 256)


def test_a_plain_request_has_no_rules(connect: Connect) -> None:
    serving = FakeServing()
    connect(serving).chat.completions.create(model="sql", messages=HELLO, metadata={"a": "b"})
    sampling = serving.engine.requests[0].sampling
    assert (sampling.rules, sampling.grammar, sampling.logprobs) == (None, None, None)


def test_chat_logprobs_whole_and_streamed(connect: Connect) -> None:
    client = connect(saying("Zürich"))
    whole = client.chat.completions.create(
        model="sql", messages=HELLO, logprobs=True, top_logprobs=2
    )
    told = whole.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert b"".join(bytes(token.bytes or ()) for token in told.content).decode() == "Zürich"
    assert [token.token for token in told.content][:3] == ["Z", "bytes:\\xc3", "bytes:\\xbc"]
    assert all(len(token.top_logprobs) == 2 for token in told.content)
    assert told.content[0].logprob == pytest.approx(-0.9)
    streamed, text = [], ""
    for chunk in client.chat.completions.create(
        model="sql", messages=HELLO, logprobs=True, top_logprobs=2, stream=True
    ):
        text += chunk.choices[0].delta.content or ""
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content or []
        spelled = b"".join(bytes(token.bytes or ()) for token in streamed)
        assert spelled.decode() == text
    assert streamed == told.content


def test_completion_logprobs_with_echo(connect: Connect) -> None:
    client = connect(saying("ab"))
    whole = client.completions.create(
        model="sql", prompt="Hé", logprobs=1, echo=True, max_tokens=8
    ).choices[0]
    assert whole.text == "Héab"
    told = whole.logprobs
    assert told is not None
    assert told.tokens == ["H", "bytes:\\xc3", "bytes:\\xa9", "a", "b"]
    assert told.text_offset == [0, 1, 1, 2, 3]
    assert told.token_logprobs == [None, -1.95, -1.69, -0.97, -0.98]
    assert told.top_logprobs is not None
    assert told.top_logprobs[0] is None
    assert told.top_logprobs[3] == {"a": -0.97}
    chunks = list(
        client.completions.create(
            model="sql", prompt="Hé", logprobs=1, echo=True, max_tokens=8, stream=True
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Héab"
    logprobs = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    assert [token for part in logprobs for token in part.tokens or ()] == told.tokens
    assert [offset for part in logprobs for offset in part.text_offset or ()] == told.text_offset


def test_scoring_a_prompt_alone(connect: Connect) -> None:
    client = connect(saying("never seen"))
    for stream in (False, True):
        answer: Any = client.completions.create(
            model="sql", prompt=["ab", [99, 100, 101]], logprobs=0, echo=True, max_tokens=0,
            stream=stream,
        )  # fmt: skip
        parts = list(answer) if stream else [answer]
        texts = {0: "", 1: ""}
        for part in parts:
            for choice in part.choices:
                texts[choice.index] += choice.text
        assert texts == {0: "ab", 1: "cde"}
    whole = client.completions.create(model="sql", prompt="ab", logprobs=0, echo=True, max_tokens=0)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 0
    assert whole.choices[0].finish_reason == "length"
    with pytest.raises(openai.BadRequestError, match="without echo"):
        client.completions.create(model="sql", prompt="ab", max_tokens=0)


def test_prompt_logprobs_in_vllms_form(connect: Connect) -> None:
    client = connect(saying("x"))
    chat = client.chat.completions.create(
        model="sql", messages=HELLO, extra_body={"prompt_logprobs": 1}
    )
    told: Any = chat.model_extra["prompt_logprobs"]  # type: ignore[index]
    assert told[0] is None
    assert len(told) == chat.usage.prompt_tokens  # type: ignore[union-attr]
    assert told[1] == {"115": {"logprob": -1.15, "rank": 1, "decoded_token": "s"}}
    completion = client.completions.create(
        model="sql", prompt="ab", extra_body={"prompt_logprobs": 0}
    )
    assert completion.choices[0].model_extra["prompt_logprobs"][1]["98"]["rank"] == 1  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match="leave stream out"):
        client.completions.create(
            model="sql", prompt="ab", stream=True, extra_body={"prompt_logprobs": 0}
        )


def test_best_of_returns_the_most_probable(connect: Connect) -> None:
    texts = ["zzz", "aaa", "mmm"]  # the fake engine finds low letters probable
    serving = FakeServing(FakeEngine(lambda request, choice: texts[choice]))
    client = connect(serving)
    answer = client.completions.create(model="sql", prompt="x", n=2, best_of=3)
    assert [choice.text for choice in answer.choices] == ["aaa", "mmm"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3 * 4
    assert answer.choices[0].logprobs is None
    with pytest.raises(openai.BadRequestError, match="leave stream out"):
        client.completions.create(model="sql", prompt="x", best_of=3, stream=True)
    with pytest.raises(openai.BadRequestError, match="at least n"):
        client.completions.create(model="sql", prompt="x", n=3, best_of=2)


def test_stop_reasons_and_stop_tokens(connect: Connect) -> None:
    client = connect(saying("one, two, three"))
    choice = client.chat.completions.create(model="sql", messages=HELLO, stop=", t").choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one", "stop")
    assert choice.model_extra["stop_reason"] == ", t"  # type: ignore[index]
    choice = client.chat.completions.create(
        model="sql", messages=HELLO, stop=", t", extra_body={"include_stop_str_in_output": True}
    ).choices[0]
    assert choice.message.content == "one, t"
    choice = client.chat.completions.create(
        model="sql", messages=HELLO, extra_body={"stop_token_ids": [ord(",")]}
    ).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("one", "stop")
    assert choice.model_extra["stop_reason"] == ord(",")  # type: ignore[index]


def test_usage_along_the_way(connect: Connect) -> None:
    stream = connect(saying("abc")).chat.completions.create(
        model="sql",
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.usage]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    assert len(counts) >= 5


def test_truncated_and_continued_prompts(connect: Connect) -> None:
    serving = saying("x")
    client = connect(serving)
    client.completions.create(
        model="sql", prompt="abcdef", extra_body={"truncate_prompt_tokens": 2}
    )
    assert serving.engine.requests[-1].prompt_token_ids == tuple(b"ef")
    client.completions.create(
        model="sql", prompt="x" * 3000, max_tokens=6, extra_body={"truncate_prompt_tokens": -1}
    )
    assert len(serving.engine.requests[-1].prompt_token_ids) == 2042
    client.chat.completions.create(
        model="sql",
        messages=[*HELLO, {"role": "assistant", "content": "I am"}],
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert bytes(serving.engine.requests[-1].prompt_token_ids) == b"user: Hello\nassistant: I am"
    client.chat.completions.create(
        model="sql", messages=HELLO, extra_body={"add_generation_prompt": False}
    )
    assert bytes(serving.engine.requests[-1].prompt_token_ids) == b"user: Hello\n"


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        (
            {"response_format": {"type": "json_object"}},
            GrammarKind.JSON_SCHEMA,
            '{"type":"object"}',
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "null"}, "strict": True},
                }
            },
            GrammarKind.JSON_SCHEMA,
            '{"type":"null"}',
        ),
        ({"extra_body": {"guided_regex": "a+"}}, GrammarKind.REGEX, "a+"),
        ({"extra_body": {"guided_choice": ["a", "ü"]}}, GrammarKind.LARK, 'start: "a" | "ü"'),
        ({"extra_body": {"guided_grammar": "root ::= x"}}, GrammarKind.GBNF, "root ::= x"),
        ({"extra_body": {"guided_json": '{"a":1}'}}, GrammarKind.JSON_SCHEMA, '{"a":1}'),
        ({"extra_body": {"structured_outputs": {"regex": "b"}}}, GrammarKind.REGEX, "b"),
        (
            {"extra_body": {"structured_outputs": {"json": {"a": 1}}}},
            GrammarKind.JSON_SCHEMA,
            '{"a":1}',
        ),
    ],
)
def test_shapes_reach_the_engine(
    connect: Connect, fields: dict[str, Any], kind: GrammarKind, text: str
) -> None:
    serving = FakeServing()
    connect(serving).chat.completions.create(model="sql", messages=HELLO, **fields)
    grammar = serving.engine.requests[0].sampling.grammar
    assert isinstance(grammar, FakeGrammar)
    assert (grammar.spec.kind, grammar.spec.text) == (kind, text)


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
