"""Fields that common clients send beside the prompt: honoured, taken as advice, or refused."""

from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from server.api.requests.structured_output import JsonSchema, ResponseFormat
from tests.fakes.api_app import INFO, FakeServing
from tests.fakes.openai_client import HELLO, WEATHER, Connect, connect

__all__ = ["connect"]

ROOMY = replace(INFO, max_model_len=4096)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def ask(serving: FakeServing, connect: Connect, **fields: Any) -> Any:
    connect(serving).chat.completions.create(model="sql", messages=HELLO, **fields)
    return serving.engine.requests[-1]


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_path": "sql"},
        {"guided_decoding_backend": "xgrammar"},
        {"reasoning_effort": "high"},
        {"verbosity": "low"},
        {"service_tier": "flex"},
        {"store": True},
        {"prompt_cache_retention": "24h"},
        {"stream_options": {"include_obfuscation": True}, "stream": True},
        {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}]},
        {"messages": [*HELLO, {"role": "assistant", "content": "x", "reasoning_content": "why"},
                      *HELLO]},
        {"tools": [{**WEATHER, "cache_control": {"type": "ephemeral"}}]},
    ],
)  # fmt: skip
async def test_advice_of_clients_is_taken(fields: dict[str, Any]) -> None:
    transport = httpx.ASGITransport(FakeServing(info=ROOMY).app())
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
        body = {"model": "sql", "messages": HELLO, **fields}
        answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text


def test_no_top_p_is_the_likeliest_token_and_an_empty_stop_is_none(connect: Connect) -> None:
    sampling = ask(FakeServing(), connect, top_p=0, stop="").sampling
    assert (sampling.top_k, sampling.top_p, sampling.stop) == (1, 1.0, ())
    assert ask(FakeServing(), connect, stop=["", "x"]).sampling.stop == ("x",)


def test_the_same_shape_in_two_fields_is_one_shape(connect: Connect) -> None:
    same = {"guided_json": SCHEMA, "structured_outputs": {"json": SCHEMA}}
    assert ask(FakeServing(), connect, extra_body=same).sampling.grammar is not None
    other = {"guided_json": SCHEMA, "structured_outputs": {"json": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="give one of them"):
        ask(FakeServing(), connect, extra_body=other)


def broken(name: str, **fields: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"nonsense": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": schema, **fields}}


def test_a_lax_tool_takes_any_object_where_its_schema_cannot_hold(connect: Connect) -> None:
    serving = FakeServing(info=ROOMY)
    tools = [WEATHER, broken("other")]
    grammar: Any = ask(serving, connect, tools=tools, tool_choice="required").sampling.grammar
    assert "nonsense" not in grammar.spec.text
    assert '"city"' in grammar.spec.text, "the other tool's schema still holds"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(FakeServing(info=ROOMY), connect, tools=[WEATHER, broken("other", strict=True)])
    assert caught.value.param == "tools[1].function.parameters"


def test_the_param_of_a_bad_schema_is_the_schema(connect: Connect) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"nonsense": 1}}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(FakeServing(), connect, response_format=shape)
    assert caught.value.param == "response_format.json_schema.schema"


def test_an_unknown_format_is_an_annotation() -> None:
    schema = {
        "properties": {
            "format": {"type": "string", "format": "phone"},
            "day": {"type": "string", "format": "date"},
            "kind": {"enum": [{"format": "phone"}]},
        }
    }
    shape = ResponseFormat(type="json_schema", json_schema=JsonSchema(schema=schema))
    spec = shape.grammar("response_format")
    assert spec is not None
    assert spec.text == (
        '{"properties":{"format":{"type":"string"},"day":{"type":"string","format":"date"},'
        '"kind":{"enum":[{"format":"phone"}]}}}'
    )


def test_responses_take_what_has_no_meaning_here_and_tell_it(connect: Connect) -> None:
    answer = connect(FakeServing()).responses.create(
        model="sql",
        input="x",
        store=True,
        max_tool_calls=3,
        truncation="auto",
        service_tier="flex",
        top_p=0,
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
    )
    told: Any = answer
    assert (told.max_tool_calls, told.truncation, told.store) == (3, "auto", False)
    assert told.reasoning.effort == "low"
    assert told.service_tier == "default"


def test_truncation_keeps_the_end_of_a_long_prompt(connect: Connect) -> None:
    serving = FakeServing()
    client = connect(serving)
    long = "x" * 400
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="sql", input=long, max_output_tokens=5)
    client.responses.create(model="sql", input=long, max_output_tokens=5, truncation="auto")
    assert len(serving.engine.requests[-1].prompt_token_ids) == 256 - 5


def test_a_custom_tool_is_refused(connect: Connect) -> None:
    with pytest.raises(openai.BadRequestError, match="'custom'"):
        ask(FakeServing(), connect, tools=[{"type": "custom", "custom": {"name": "x"}}])
