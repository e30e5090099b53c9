"""Request bodies: what passes, what is refused, and under which name."""

import inspect
import json
from typing import Any

import pytest
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions
from pydantic import BaseModel, ValidationError

from server.api.requests.body_problems import explain
from server.api.requests.chat_and_completion import ChatBody, CompletionBody, UnloadAdapterBody
from server.core.errors import RequestError

USER = {"role": "user", "content": "Hi"}
TRANSPORT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def chat(**fields: Any) -> ChatBody:
    body = {"model": "sql", "messages": [USER], **fields}
    return ChatBody.model_validate_json(json.dumps(body))


def complete(**fields: Any) -> CompletionBody:
    return CompletionBody.model_validate_json(json.dumps({"model": "sql", **fields}))


def refusal(schema: type[BaseModel], **fields: Any) -> RequestError:
    body: dict[str, Any] = {"model": "sql", **fields}
    if schema is ChatBody:
        body = {"messages": [USER], **body}
    with pytest.raises(ValidationError) as caught:
        schema.model_validate_json(json.dumps(body))
    return explain(caught.value, schema)


@pytest.mark.parametrize(
    ("method", "schema"), [(ChatCompletions.create, ChatBody), (Completions.create, CompletionBody)]
)
def test_every_field_of_the_openai_api_is_known(
    method: Any, schema: type[ChatBody | CompletionBody]
) -> None:
    theirs = set(inspect.signature(method).parameters) - TRANSPORT
    ours = set(schema.model_fields) | set(schema.not_honoured)
    assert theirs - ours == set()
    assert set(schema.model_fields) & set(schema.not_honoured) == set()


@pytest.mark.parametrize("schema", [ChatBody, CompletionBody])
def test_neutral_values_and_nulls_pass(schema: type[ChatBody | CompletionBody]) -> None:
    required: dict[str, Any] = {"messages": [USER]} if schema is ChatBody else {"prompt": "x"}
    body: dict[str, Any] = {"model": "sql", **required}
    for name, neutral in schema.not_honoured.items():
        for value in (None, *neutral):
            schema.model_validate_json(json.dumps({**body, name: value}))
    for name in set(schema.model_fields) - set(body):
        schema.model_validate_json(json.dumps({**body, name: None}))


@pytest.mark.parametrize("schema", [ChatBody, CompletionBody])
def test_other_values_are_refused_by_name(schema: type[ChatBody | CompletionBody]) -> None:
    fields: dict[str, Any] = {} if schema is ChatBody else {"prompt": "x"}
    for name in schema.not_honoured:
        error = refusal(schema, **fields, **{name: ["no", "such", "value"]})
        assert error.param == name
        assert str(error).startswith(f"Unsupported field: {name}.")


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    error = refusal(ChatBody, temprature=1)
    assert error.param == "temprature"
    assert str(error) == "Unknown field: temprature (did you mean temperature?)"
    assert str(refusal(ChatBody, zzz=None)) == "Unknown field: zzz"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"temperature": 2.5},
            "temperature",
            "temperature is 2.5; it should be less than or equal to 2",
        ),
        (
            {"temperature": "hot"},
            "temperature",
            "temperature is 'hot'; it should be a valid number",
        ),
        ({"top_p": -1}, "top_p", "top_p is -1; it should be"),
        ({"top_k": -2}, "top_k", "top_k is -2; it should be greater than or equal to -1"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens is 0; it should be greater than or equal"),
        ({"max_tokens": 1.5}, "max_tokens", "max_tokens is 1.5; it should be a valid integer"),
        ({"n": True}, "n", "n is True; it should be a valid integer"),
        ({"stop": list("abcde")}, "stop", "stop should have at most 4 items, not 5"),
        ({"stop": 5}, "stop", "stop is 5; it should be a valid array"),
        ({"messages": []}, "messages", "messages should have at least 1 item"),
        ({"messages": "Hi"}, "messages", "messages is 'Hi'; it should be a valid array"),
        ({"messages": [5]}, "messages[0]", "messages[0] must be a JSON object"),
        (
            {"messages": [{"role": "robot", "content": "x"}]},
            "messages[0].role",
            "messages[0].role is 'robot'; it should be 'system', 'developer', 'user', 'assistant'",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing field"),
        (
            {"messages": [USER, {**USER, "audio": {}}]},
            "messages[1].audio",
            "Unsupported field: audio",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
            "messages[0].content: part 0 is of type 'image_url'; this server takes text only",
        ),
        ({"stream_options": {}}, "stream_options", "stream_options goes with stream: true"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": 2}},
            "stream_options.include_obfuscation",
            "stream_options.include_obfuscation is 2",
        ),
        (
            {"max_tokens": 4, "max_completion_tokens": 5},
            "max_tokens",
            "max_tokens is 4 and max_completion_tokens is 5",
        ),
        ({"adapters": [{"name": "a+b"}]}, "adapters[0].name", "adapters[0].name is 'a+b'"),
        ({"adapters": [{"nam": "a"}]}, "adapters[0].name", "Missing field: adapters[0].name"),
    ],
)
def test_wrong_values_are_named(fields: dict[str, Any], param: str, message: str) -> None:
    error = refusal(ChatBody, **fields)
    assert error.param == param
    assert str(error).startswith(message)


def test_all_problems_are_told_at_once() -> None:
    error = refusal(ChatBody, temperature=9, top_p=9)
    assert error.param == "temperature"
    assert "temperature is 9" in str(error)
    assert "top_p is 9" in str(error)


def test_long_values_are_cut() -> None:
    assert len(str(refusal(ChatBody, temperature="x" * 10_000))) < 200


def test_text_parts_become_lines_and_developer_is_system() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    body = chat(messages=[{"role": "developer", "content": parts}, USER])
    assert body.messages[0].as_template_message() == {"role": "system", "content": "one\ntwo"}


def test_an_assistants_message_of_ours_can_be_sent_back() -> None:
    ours = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None}
    assert chat(messages=[USER, ours, USER]).messages[1].content == "x"


def test_defaults_are_the_openai_apis() -> None:
    body = chat()
    assert (body.temperature, body.top_p, body.top_k, body.n) == (1.0, 1.0, 0, 1)
    assert (body.presence_penalty, body.frequency_penalty, body.repetition_penalty) == (0, 0, 1)
    assert (body.stop, body.seed, body.ignore_eos, body.shape) == ([], None, False, None)
    assert chat(stop="END").stop == ["END"]
    assert chat(max_completion_tokens=9).token_limit == chat(max_tokens=9).token_limit == 9


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts(prompt: Any, prompts: list[Any]) -> None:
    assert complete(prompt=prompt).prompts == prompts


@pytest.mark.parametrize("prompt", [[], 5, [1.5], [["a"]], [[True]], {"a": 1}, [None]])
def test_prompts_that_are_none(prompt: Any) -> None:
    assert refusal(CompletionBody, prompt=prompt).param == "prompt"


def test_a_field_of_another_endpoint_is_unknown() -> None:
    with pytest.raises(ValidationError) as caught:
        UnloadAdapterBody.model_validate_json('{"lora_name": "a", "lora_path": "b"}')
    assert explain(caught.value, UnloadAdapterBody).param == "lora_path"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    body = complete(prompt=[5.0, 7], n=2.0, seed=3.0, temperature=1, stop_token_ids=[4.0])
    assert (body.prompts, body.n, body.seed, body.stop_token_ids) == ([[5, 7]], 2, 3, [4])
    assert refusal(CompletionBody, prompt="x", n=2.5).param == "n"
    assert refusal(CompletionBody, prompt="x", seed=1e300).param == "seed"


def test_a_zero_is_not_false() -> None:
    assert refusal(ChatBody, store=0).param == "store"
    assert refusal(ChatBody, best_of=True).param == "best_of"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "x", "cache": 1}]}, "content"),
        ({"role": "user", "content": [{"type": "refusal", "refusal": "x", "text": ""}]}, "content"),
        ({"role": "user", "content": "x", "refusal": "no"}, "refusal"),
    ],
)
def test_what_a_message_can_not_hold(message: dict[str, Any], param: str) -> None:
    assert refusal(ChatBody, messages=[message]).param == f"messages[0].{param}"


def test_parts_of_an_earlier_answer_may_come_back() -> None:
    part = {"type": "output_text", "text": "x", "annotations": [], "logprobs": []}
    assert chat(messages=[{"role": "assistant", "content": [part]}]).messages[0].content == "x"
