"""What the prefix cache had of a prompt is told in every answer's usage."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.fakes.live_engine import SETTINGS, serve_engine

TEXT = "a prompt that fills a few blocks of the cache: " * 2
CHAT: Any = [{"role": "user", "content": TEXT}]
BLOCK = SETTINGS.block_size


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with (
        serve_engine() as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as connected,
    ):
        yield connected


def whole_blocks(num_tokens: int) -> int:
    """What a second request finds: full blocks, short of the last token."""
    return (num_tokens - 1) // BLOCK * BLOCK


def cached(usage: Any) -> int:
    """`prompt_tokens_details.cached_tokens`, which must be less than the prompt."""
    found: int = usage.prompt_tokens_details.cached_tokens
    assert 0 <= found < usage.prompt_tokens
    return found


def test_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    def usage(model: str) -> Any:
        return client.chat.completions.create(model=model, messages=CHAT, max_tokens=3).usage

    assert cached(usage("sql")) == 0
    again = usage("sql")
    assert cached(again) == whole_blocks(again.prompt_tokens) > 80
    assert cached(usage("polite")) == 0, "another adapter computes the prompt anew"
    options: Any = {"include_usage": True}
    *_, last = client.chat.completions.create(
        model="sql", messages=CHAT, max_tokens=3, stream=True, stream_options=options
    )
    assert cached(last.usage) == cached(again)


def test_completions_add_up_over_their_prompts(client: openai.OpenAI) -> None:
    def usage(**more: Any) -> Any:
        return client.completions.create(model="sql", prompt=prompts, max_tokens=2, **more).usage

    prompts = [TEXT, "b" + TEXT]
    assert cached(usage(n=2)) == 0, "their prompt was computed once, whatever the second choice had"
    assert cached(usage(n=2)) == sum(whole_blocks(len(p)) for p in prompts)
    assert cached(usage(logprobs=0, echo=True)) == 0, "a prompt that is scored is computed"


def test_responses_whole_and_streamed(client: openai.OpenAI) -> None:
    def usage() -> Any:
        return client.responses.create(model="sql", input=TEXT, max_output_tokens=2).usage

    assert usage().input_tokens_details.cached_tokens == 0
    again = usage()
    assert again.input_tokens_details.cached_tokens == whole_blocks(again.input_tokens)
    *_, last = client.responses.create(model="sql", input=TEXT, max_output_tokens=2, stream=True)
    streamed: Any = last
    assert streamed.response.usage.input_tokens_details == again.input_tokens_details
