"""Greedy answers to many prompts: by the model itself, in batches, or by a running server."""

from collections.abc import Sequence
from typing import Any

import torch

from adapters.base.loading import LoadedBase
from trainer.collator import pad_token_id
from trainer.data.conversation import as_messages
from trainer.data.examples import Example
from trainer.errors import EvaluationError
from trainer.labels import ConversationLabeller

BATCH_PROMPTS = 8
"""Prompts answered together; they are sorted by length, so that little is padding."""


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
    model.eval()
    for start in range(0, len(order), BATCH_PROMPTS):
        chosen = order[start : start + BATCH_PROMPTS]
        texts = _generate(model, base.tokenizer, [prompts[i] for i in chosen], max_tokens)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text
    return answers


def answers_from_server(
    url: str, model: str, api_key: str | None, examples: Sequence[Example], max_tokens: int
) -> list[str]:
    """A running server's answer to each example's prompt, under the model name `model`.

    Raises `EvaluationError` when it can't be reached or refuses.
    """
    import httpx

    base = url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    answers = []
    try:
        with httpx.Client(timeout=600, headers=headers) as client:
            for example in examples:
                body = {
                    "model": model,
                    "messages": as_messages(example.conversation.prompt),
                    "max_tokens": max_tokens,
                    "temperature": 0,
                }
                response = client.post(f"{base}/v1/chat/completions", json=body)
                response.raise_for_status()
                content = response.json()["choices"][0]["message"]["content"]
                answers.append(str(content or "").strip())
    except httpx.HTTPStatusError as error:
        reason = error.response.text[:200]
        raise EvaluationError(f"{base} refused to answer as {model}: {reason}") from error
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EvaluationError(f"{base} can't be asked as {model}: {error}") from error
    return answers


def _generate(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_tokens: int
) -> list[str]:
    """One batch, padded on the left."""
    pad_id = pad_token_id(tokenizer)
    longest = max(len(prompt) for prompt in prompts)
    device = next(model.parameters()).device
    rows = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    masks = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(masks, device=device),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=pad_id,
        )
    texts = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return [str(text).strip() for text in texts]
