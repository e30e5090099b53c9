"""Greedy answers to many prompts: by the model itself, in batches, or by a running server."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from adapters.base.loading import LoadedBase
from trainer.batches.collator import pad_token_id
from trainer.data.conversation import as_request
from trainer.data.examples import Example
from trainer.data.labels import ConversationLabeller
from trainer.evaluate.samples import greedy_answers
from trainer.metrics.chat_client import ChatClient

BATCH_PROMPTS = 8
"""Prompts answered together; they are sorted by length, so that little is padding."""

SERVER_REQUESTS = 8
"""Requests that a server has at once: it batches them."""


def answer_prompts(
    model: Any,
    base: LoadedBase,
    labeller: ConversationLabeller,
    examples: Sequence[Example],
    max_tokens: int,
) -> list[str]:
    """`model`'s answer to each example's prompt, in order. Leaves the model in eval mode."""
    prompts = [labeller.prompt_ids(e.conversation.prompt, e.conversation.tools) for e in examples]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers = [""] * len(prompts)
    pad_id = pad_token_id(base.tokenizer)
    model.eval()
    for start in range(0, len(order), BATCH_PROMPTS):
        chosen = order[start : start + BATCH_PROMPTS]
        batch = [prompts[i] for i in chosen]
        texts = greedy_answers(model, base.tokenizer, batch, max_tokens, pad_id)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text
    return answers


def answers_from_server(
    url: str, model: str, api_key: str | None, examples: Sequence[Example], max_tokens: int
) -> list[str]:
    """A running server's answer to each example's prompt, under the model name `model`.

    Raises `EvaluationError` when it can't be reached or refuses.
    """
    client = ChatClient(url, model, api_key, max_tokens=max_tokens)

    def ask(example: Example) -> str:
        asked = as_request(example.conversation)
        return client.ask(asked["messages"], tools=asked.get("tools", ())).strip()

    pool = ThreadPoolExecutor(SERVER_REQUESTS)
    try:
        return list(pool.map(ask, examples))
    finally:
        pool.shutdown(cancel_futures=True)  # the first error ends it: ask nothing more
