"""Answers of a running server: several asked for at once, each at its own place."""

import json
import threading
from typing import Any

import pytest

from tests.unit.trainer.endpoint import chat_endpoint
from trainer.data.conversation import ASSISTANT, TOOL, USER, Conversation, Turn
from trainer.data.examples import Example
from trainer.data.labels import LabelledRow
from trainer.errors import EvaluationError
from trainer.evaluate.generation import SERVER_REQUESTS, answers_from_server


def examples(count: int) -> list[Example]:
    row = LabelledRow((1, 2), (False, True))
    return [
        Example(Conversation((Turn(USER, f"question {i}"), Turn(ASSISTANT, "so"))), row)
        for i in range(count)
    ]


def test_a_server_is_asked_for_several_at_once_and_answers_keep_their_places() -> None:
    together = threading.Barrier(SERVER_REQUESTS, timeout=30)

    def reply(body: dict[str, Any]) -> str:
        together.wait()  # nobody is answered before all of them have asked
        return f" to {body['messages'][-1]['content']} "

    asked = examples(2 * SERVER_REQUESTS)
    with chat_endpoint(reply) as endpoint:
        answers = answers_from_server(endpoint.url, "sql", None, asked, 8)
    assert answers == [f"to question {i}" for i in range(len(asked))]


def test_tools_and_calls_are_sent_as_the_api_has_them() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": "ä"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    turns = (
        Turn(USER, "q"), Turn(ASSISTANT, "", json.dumps([call])),
        Turn(TOOL, "1", name="f", tool_call_id="c"), Turn(ASSISTANT, "so"),
    )  # fmt: skip
    example = Example(Conversation(turns, json.dumps(tools)), LabelledRow((1,), (True,)))
    with chat_endpoint(lambda body: "x") as endpoint:
        answers_from_server(endpoint.url, "sql", None, [example], 8)
    (body,) = endpoint.bodies
    assert body["tools"] == tools
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a": "ä"}'
    assert body["messages"][2]["tool_call_id"] == "c"


def test_the_first_refusal_ends_it() -> None:
    with pytest.raises(EvaluationError, match="can't be asked as sql"):
        answers_from_server("http://127.0.0.1:1", "sql", None, examples(50), 8)
