"""A tokenizer longer than its model: text whose tokens the model lacks is the client's 400."""

import dataclasses
from typing import Any

import httpx
import pytest

from tests.fakes.api_app import INFO, FakeServing

SIZE = 200  # the fake tokenizer's tokens are bytes, and these characters' lie beyond
FINE, BEYOND = "hello", "\u00e9\u00e8 and \U0001f30a"
CHAT: dict[str, Any] = {"model": "base", "max_tokens": 2}


def client() -> httpx.AsyncClient:
    app = FakeServing(info=dataclasses.replace(INFO, vocab_size=SIZE)).app()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": BEYOND}, "prompt"),
        ("/v1/completions", {"prompt": [FINE, BEYOND]}, "prompt"),
        ("/v1/completions", {"prompt": [1, SIZE]}, "prompt"),
        ("/v1/completions", {"prompt": FINE, "stop_token_ids": [SIZE]}, "stop_token_ids"),
        ("/v1/completions", {"prompt": FINE, "allowed_token_ids": [SIZE]}, "allowed_token_ids"),
        ("/v1/completions", {"prompt": FINE, "logit_bias": {str(SIZE): 1}}, "logit_bias"),
        ("/v1/chat/completions", {"messages": said(BEYOND)}, "messages"),
    ],
)
async def test_what_the_model_lacks_is_refused(
    path: str, fields: dict[str, Any], param: str
) -> None:
    async with client() as http:
        answer = await http.post(path, json=CHAT | fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert f"0 to {SIZE - 1}" in error["message"]


async def test_a_banned_word_that_can_never_come_bans_nothing() -> None:
    async with client() as http:
        answer = await http.post(
            "/v1/completions",
            json=CHAT | {"prompt": FINE, "bad_words": [BEYOND], "min_tokens": 1},
        )
    assert answer.status_code == 200, answer.text
