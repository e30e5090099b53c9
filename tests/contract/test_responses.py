"""`/v1/responses`, `/tokenize` and `/detokenize` through the clients that people use."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from server.api.settings import ApiSettings
from server.core.errors import OverloadedError
from server.core.request import FinishReason
from tests.fakes.api_app import BASE_ID, FakeServing
from tests.fakes.api_engine import FakeEngine
from tests.fakes.api_grammars import FakeGrammar
from tests.fakes.api_server import serve
from tests.fakes.openai_client import CALL, WEATHER, Connect, connect, saying

__all__ = ["connect"]

FLAT: Any = {"type": "function", **WEATHER["function"]}


class City(BaseModel):
    """What `responses.parse` asks for."""

    name: str
    size: int


def test_a_string_and_a_conversation(connect: Connect) -> None:
    serving = FakeServing()
    client = connect(serving)
    answer = client.responses.create(
        model="sql",
        input="Hello",
        instructions="Be brief.",
        max_output_tokens=40,
        metadata={"a": "b"},
    )
    assert (answer.status, answer.object, answer.model) == ("completed", "response", "sql@3")
    assert answer.output_text == "sql@3 answers #0"
    assert (answer.metadata, answer.store) == ({"a": "b"}, False)
    assert answer.usage is not None
    assert answer.usage.output_tokens == len("sql@3 answers #0") + 1
    prompt = bytes(serving.engine.requests[0].prompt_token_ids).decode()
    assert prompt == "system: Be brief.\nuser: Hello\nassistant: "
    client.responses.create(
        model="sql",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
            {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "sunny"},
        ],
    )
    prompt = bytes(serving.engine.requests[1].prompt_token_ids).decode()
    assert 'assistant: <tool_call>\n{"name": "weather", "arguments": {}}' in prompt
    assert "<tool_response>\nsunny\n</tool_response>" in prompt


def test_an_answer_can_be_sent_back(connect: Connect) -> None:
    client = connect(saying(f"I look.\n{CALL}"))
    first = client.responses.create(model="sql", input="Weather?", tools=[FLAT])
    output: Any = [item.model_dump(exclude_none=True) for item in first.output]
    client.responses.create(
        model="sql",
        input=[{"role": "user", "content": "Weather?"}, *output],
        tools=[FLAT],
    )


def test_streamed_text_has_the_typed_events_in_order(connect: Connect) -> None:
    client = connect(saying("Zürich"))
    events = list(
        client.responses.create(
            model="sql", input="Hi", stream=True, top_logprobs=1,
            include=["message.output_text.logprobs"],
        )
    )  # fmt: skip
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas: Any = events[4:-4]
    assert "".join(event.delta for event in deltas) == "Zürich"
    spelled = [entry.model_dump()["bytes"] for event in deltas for entry in event.logprobs]
    assert bytes(byte for entry in spelled for byte in entry).decode() == "Zürich"
    last: Any = events[-1]
    assert last.response.output_text == "Zürich"
    assert last.response.usage.output_tokens == len("Zürich".encode()) + 1


def test_streamed_calls(connect: Connect) -> None:
    client = connect(saying(f"I look.\n{CALL}"))
    with client.responses.stream(model="sql", input="Weather?", tools=[FLAT]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds.count("response.output_item.added") == 2
    assert "response.function_call_arguments.delta" in kinds
    assert kinds.index("response.output_text.done") < kinds.index(
        "response.function_call_arguments.done"
    )
    message, call = final.output
    assert (message.type, call.type) == ("message", "function_call")
    assert final.output_text == "I look."
    assert json.loads(call.arguments) == {"city": "Zürich"}  # type: ignore[union-attr]


def test_a_text_format_is_enforced_and_parsed(connect: Connect) -> None:
    serving = saying('{"name": "Bern", "size": 3}')
    answer = connect(serving).responses.parse(model="sql", input="x", text_format=City)
    assert answer.output_parsed == City(name="Bern", size=3)
    grammar = serving.engine.requests[0].sampling.grammar
    assert isinstance(grammar, FakeGrammar)
    assert json.loads(grammar.spec.text)["required"] == ["name", "size"]


def test_a_limit_makes_it_incomplete(connect: Connect) -> None:
    client = connect(saying("too long"))
    answer = client.responses.create(model="sql", input="x", max_output_tokens=3)
    assert (answer.status, answer.output_text) == ("incomplete", "too")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    events = list(client.responses.create(model="sql", input="x", max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("engine", "code"),
    [
        (FakeEngine(fail_after=4), "server_error"),
        (FakeEngine(fail_after=4, fail_reason=FinishReason.REFUSED), "invalid_prompt"),
        (FakeEngine(error=OverloadedError("full"), waits=0.2), "rate_limit_exceeded"),
    ],
)
def test_an_error_in_a_stream_is_an_event(connect: Connect, engine: FakeEngine, code: str) -> None:
    serving = FakeServing(engine, settings=ApiSettings(opening_seconds=0.0))
    events = list(connect(serving).responses.create(model="sql", input="x", stream=True))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    failed: Any = events[-1]
    assert failed.response.status == "failed"
    assert failed.response.error.code == code


def test_tools_are_strict_unless_told_otherwise(connect: Connect) -> None:
    serving = saying(CALL)
    client = connect(serving)
    for tool, is_strict in ((FLAT, True), ({**FLAT, "strict": None}, True),
                            ({**FLAT, "strict": False}, False)):  # fmt: skip
        answer = client.responses.create(model="sql", input="Weather?", tools=[tool])
        told: Any = answer.tools[0]
        assert told.strict is is_strict
        grammar = serving.engine.requests[-1].sampling.grammar
        assert (grammar is not None) is is_strict


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"truncation": "none"}, "truncation"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"tools": [{"type": "web_search"}]}, None),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, None),
        ({"input": []}, "input"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    connect: Connect, fields: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        connect(FakeServing()).responses.create(**{"model": "sql", "input": "x", **fields})
    if param is not None:
        assert caught.value.param == param


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with serve(FakeServing().app()) as address, httpx.Client(base_url=address) as client:
        yield client


def test_tokenize_and_detokenize(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"prompt": "hé", "return_token_strs": True}).json()
    assert answer == {
        "count": 3,
        "max_model_len": 256,
        "tokens": list("hé".encode()),
        "token_strs": ["<104>", "<195>", "<169>"],
    }
    chat = {"model": "sql", "messages": [{"role": "user", "content": "x"}]}
    answer = http.post("/tokenize", json={**chat, "add_generation_prompt": False}).json()
    assert bytes(answer["tokens"]) == b"user: x\n"
    back = http.post("/detokenize", json={"model": BASE_ID, "tokens": answer["tokens"]}).json()
    assert back == {"prompt": "user: x\n"}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        (
            "/tokenize",
            {"prompt": "a", "messages": [{"role": "user", "content": "x"}]},
            400,
            "prompt",
        ),
        ("/tokenize", {"prompt": "a", "chat_template": "x"}, 400, "chat_template"),
        ("/tokenize", {"model": "nobody", "prompt": "a"}, 404, "model"),
        ("/detokenize", {"tokens": [257]}, 400, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, 400, "tokens[0]"),
    ],
)
def test_wrong_bodies(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param
