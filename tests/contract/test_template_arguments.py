"""`chat_template_kwargs` reach the chat template from every endpoint that renders one."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.fakes.api_app import FakeServing
from tests.fakes.api_server import serve

ARGUMENTS = {"enable_thinking": False, "greeting": ["Grüezi", {"deep": 1.5}]}
HELLO = [{"role": "user", "content": "Hello"}]
RENDERED = "enable_thinking=False\ngreeting=['Grüezi', {'deep': 1.5}]\nuser: Hello\nassistant: "


@pytest.fixture
def serving() -> FakeServing:
    return FakeServing()


@pytest.fixture
def client(serving: FakeServing) -> Iterator[httpx.Client]:
    with serve(serving.app()) as address, httpx.Client(base_url=address) as connected:
        yield connected


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/chat/completions", {"messages": HELLO, "stream": True}),
        ("/v1/responses", {"input": "Hello"}),
    ],
)
def test_generation(
    serving: FakeServing, client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    answer = client.post(path, json={"model": "sql", **body, "chat_template_kwargs": ARGUMENTS})
    assert answer.status_code == 200
    assert bytes(serving.engine.requests[0].prompt_token_ids).decode() == RENDERED


def test_tokenize_counts_what_generation_sees(client: httpx.Client) -> None:
    body = {"model": "sql", "messages": HELLO, "chat_template_kwargs": ARGUMENTS}
    assert bytes(client.post("/tokenize", json=body).json()["tokens"]).decode() == RENDERED


@pytest.mark.parametrize("name", ["messages", "tools", "chat_template", "tokenize"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/tokenize"])
def test_what_the_server_sets_itself_is_refused(client: httpx.Client, path: str, name: str) -> None:
    asked = {"input": "Hello"} if path == "/v1/responses" else {"messages": HELLO}
    body = {"model": "sql", **asked, "chat_template_kwargs": {name: "x"}}
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "chat_template_kwargs"
    assert name in answer.json()["error"]["message"]
