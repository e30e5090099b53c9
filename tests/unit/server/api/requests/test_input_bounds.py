"""What can't fit is refused before anything is made of it."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from server.api.access.callers import ANYONE, CurrentCaller
from server.api.access.deadlines import CurrentDeadline
from server.api.generation.prompts import PromptTokens
from server.api.generation.sampling import SamplingFactory
from server.api.requests.chat_and_completion import ChatBody
from server.api.requests.messages import MAX_MESSAGES, MAX_PARTS
from server.api.requests.side_work import SideWork
from server.core.chat import ChatPrompt, RenderOrder
from server.core.errors import PromptTooLongError, RequestError
from tests.fakes.api_app import INFO
from tests.fakes.api_grammars import FakeGrammars
from tests.fakes.api_tokenizer import FakeRenderer, FakeTokenizer


class CountingTokenizer(FakeTokenizer):
    def __init__(self) -> None:
        self.num_calls = 0

    def encode(self, text: str, *, adds_special_tokens: bool = True) -> tuple[int, ...]:
        self.num_calls += 1
        return super().encode(text)

    def render_order(self, prompt: ChatPrompt, max_tokens: int) -> RenderOrder:
        self.num_calls += 1
        return super().render_order(prompt, max_tokens)


def prompt_tokens(tokenizer: FakeTokenizer) -> PromptTokens:
    return PromptTokens(
        tokenizer,
        FakeRenderer(),
        INFO,
        SideWork(),
        current=CurrentCaller(ANYONE),
        deadline=CurrentDeadline(None),
    )


MAX_BYTES = INFO.max_model_len * len("<end>")


@pytest.mark.parametrize("text", ["x" * (MAX_BYTES + 1), "é" * (MAX_BYTES // 2 + 1)])
async def test_text_beyond_the_window_is_never_tokenised(text: str) -> None:
    tokenizer = CountingTokenizer()
    prompts = prompt_tokens(tokenizer)
    with pytest.raises(PromptTooLongError, match="bytes"):
        await prompts.of_prompt(text)
    half = {"role": "user", "content": text[: len(text) // 2]}
    rest = {"role": "user", "content": text[len(text) // 2 :]}
    with pytest.raises(PromptTooLongError, match="bytes"):
        await prompts.of_chat(ChatPrompt([half, rest]))
    assert tokenizer.num_calls == 0
    await prompts.of_prompt(text[: MAX_BYTES // 2])
    assert tokenizer.num_calls == 1


async def test_more_ids_than_the_window_are_refused_unless_cut() -> None:
    prompts = prompt_tokens(FakeTokenizer())
    ids = [1] * (INFO.max_model_len + 1)
    with pytest.raises(PromptTooLongError, match="257 token ids"):
        await prompts.of_prompt(ids)
    assert len(await prompts.of_prompt(ids, is_cut=True)) == len(ids)
    for bad in (-1, INFO.vocab_size):
        with pytest.raises(RequestError, match=f"id {bad};"):
            await prompts.of_prompt([0, bad, 5])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allowed_token_ids", [5] * (INFO.vocab_size + 1)),
        ("logit_bias", {str(i).zfill(4): 1.0 for i in range(INFO.vocab_size)} | {"0": 1.0}),
    ],
)
def test_a_list_longer_than_the_vocabulary_is_refused(field: str, value: Any) -> None:
    factory = SamplingFactory(FakeTokenizer(), FakeGrammars(), INFO, SideWork())
    body = ChatBody(model="m", messages=[{"role": "user", "content": "x"}], **{field: value})
    with pytest.raises(RequestError, match=f"{field} has 258 entries"):
        asyncio.run(factory.params(body, 1))


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1),
        [{"role": "user", "content": [{"type": "text", "text": "x"}] * (MAX_PARTS + 1)}],
    ],
)
def test_counts_of_a_conversation_are_bounded(messages: list[Any]) -> None:
    with pytest.raises(ValidationError):
        ChatBody(model="m", messages=messages)
