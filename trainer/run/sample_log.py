"""Answers to the same held-out prompts at each evaluation, so that one can watch them change."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text
from torch import nn

from trainer.data.examples import Example
from trainer.data.labels import ConversationLabeller
from trainer.evaluate.samples import greedy_answers
from trainer.loop.held_out_loss import evaluating
from trainer.loop.run_folder import RunFolder
from trainer.loop.trackers import Tracker


class SampleLog:
    """Writes `samples/step-00000040.md`, tells the tracker, and shows the first answer."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        tokenizer: Any,
        labeller: ConversationLabeller,
        max_tokens: int,
        pad_id: int,
        folder: RunFolder,
        tracker: Tracker,
        console: Console,
    ) -> None:
        self._examples = examples
        self._prompts = [
            labeller.prompt_ids(e.conversation.prompt, e.conversation.tools) for e in examples
        ]
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._pad_id = pad_id
        self._folder = folder.samples
        self._tracker = tracker
        self._console = console

    def __call__(self, model: nn.Module, step: int) -> None:
        """Answer all prompts; the model's mode and the random generators are as before."""
        with evaluating(model):
            answers = greedy_answers(
                model, self._tokenizer, self._prompts, self._max_tokens, self._pad_id
            )
        conversations = [example.conversation for example in self._examples]
        text = "\n\n".join(
            f"**{asked.question}**\n\n{answer}\n\n_Reference:_ {asked.answer}"
            for asked, answer in zip(conversations, answers, strict=True)
        )
        self._folder.mkdir(exist_ok=True)
        (self._folder / f"step-{step:08d}.md").write_text(text + "\n", encoding="utf-8")
        self._tracker.text(step, "samples", text)
        first = Text(f"  {_short(conversations[0].question)} -> {_short(answers[0])}", "dim")
        self._console.print(first)


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
