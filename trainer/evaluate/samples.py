"""Short greedy answers to held-out prompts, base beside adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from trainer.data.examples import Example
from trainer.data.labels import ConversationLabeller
from trainer.evaluate.held_out import evenly_spread


@dataclass(frozen=True, slots=True)
class Sample:
    """One held-out question, its reference answer, and what base and adapter say."""

    question: str
    reference: str
    base: str
    adapter: str


def choose_examples(held_out: Sequence[Example], count: int) -> tuple[Example, ...]:
    """`count` rows, evenly spread over the held-out rows in their order; none of plain text."""
    asking = {
        example.conversation.key: example
        for example in evenly_spread(held_out, count)
        if example.conversation.prompt
    }
    return tuple(asking.values())


def sample_answers(
    model: Any,
    tokenizer: Any,
    labeller: ConversationLabeller,
    examples: Sequence[Example],
    *,
    max_tokens: int,
    pad_id: int,
) -> tuple[str, ...]:
    """Answers to each example's prompt. Leaves the model in eval mode."""
    if not examples:
        return ()
    prompts = [
        labeller.prompt_ids(example.conversation.prompt, example.conversation.tools)
        for example in examples
    ]
    model.eval()
    return tuple(greedy_answers(model, tokenizer, prompts, max_tokens, pad_id))


def paired_samples(
    examples: Sequence[Example], base: Sequence[str], adapter: Sequence[str]
) -> tuple[Sample, ...]:
    """What both said to the examples' prompts."""
    return tuple(
        Sample(example.conversation.question, example.conversation.answer, before, after)
        for example, before, after in zip(examples, base, adapter, strict=True)
    )


def greedy_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_tokens: int, pad_id: int
) -> list[str]:
    """Answers to prompts of token ids, all in one batch, padded on the left."""
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
    answers = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
    return [str(answer).strip() for answer in answers]


def sample_table(samples: Sequence[Sample], name: str) -> Table:
    """The samples side by side."""
    table = Table(title="Held-out prompts, greedy answers", title_justify="left", show_lines=True)
    for heading in ("prompt", "base", name):
        table.add_column(heading, ratio=1, overflow="fold")
    for sample in samples:
        # Text, not markup: an answer may hold square brackets.
        table.add_row(*(Text(text) for text in (sample.question, sample.base, sample.adapter)))
    return table


def samples_markdown(samples: Sequence[Sample]) -> str:
    """The samples for a model card."""
    parts = []
    for sample in samples:
        fields = (
            ("Prompt", sample.question),
            ("Base", sample.base),
            ("Adapter", sample.adapter),
            ("Reference", sample.reference),
        )
        parts.append("\n".join(f"- **{title}:** {_one_line(text)}" for title, text in fields))
    return "\n\n".join(parts)


def _one_line(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())
