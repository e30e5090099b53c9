"""`text_completion`, whole and in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.api.answers.format import (
    AnswerHead,
    ChunkedFormat,
    StreamReport,
    WholeChoice,
    as_json,
    whole_choice,
)
from server.api.answers.logprobs import LogprobObjects
from server.core.logprobs import TokenLogprobs
from server.core.request import GenerationDelta


@dataclass(frozen=True, slots=True)
class CompletionPrompt:
    """One of the prompts: its tokens, and its text where it is echoed."""

    token_ids: tuple[int, ...]
    text: str = ""


class CompletionFormat(ChunkedFormat):
    """Writes one completion.

    `prompts` come in order, `choices_per_prompt` choices each. With `echoes` each choice begins
    with its prompt. `logprobs` is None unless they were asked for; with `echoes` they cover the
    prompt too. `prompt_scores` adds vLLM's member of the prompt's.
    """

    def __init__(
        self,
        head: AnswerHead,
        report: StreamReport = StreamReport(),  # noqa: B008 - frozen
        *,
        prompts: Sequence[CompletionPrompt] = (),
        choices_per_prompt: int = 1,
        echoes: bool = False,
        logprobs: LogprobObjects | None = None,
        prompt_scores: LogprobObjects | None = None,
    ) -> None:
        super().__init__("text_completion", "text_completion", head, report)
        self._prompts = tuple(prompts)
        self._choices_per_prompt = choices_per_prompt
        self._echoes = echoes
        self._logprobs = logprobs
        self._prompt_scores = prompt_scores
        self._scored: dict[int, list[TokenLogprobs]] = {}
        self._have_begun: set[int] = set()

    def opening(self, num_choices: int) -> bytes:
        if not self._echoes or self._logprobs is not None:
            return b""
        return "".join(
            self._chunks.chunk(choice, f'"text":{as_json(self._prompt(choice).text)}')
            for choice in range(num_choices)
        ).encode()

    def delta(self, delta: GenerationDelta) -> bytes:
        if self._counts_along:
            self._chunks.count(delta.num_tokens)
        written = self._echoed(delta) if self._echoes and self._logprobs is not None else ""
        if delta.text or delta.scores.drawn:
            content = f'"text":{as_json(delta.text)}{self._logprobs_member(delta)}'
            written += self._chunks.chunk(delta.choice, content)
        if delta.finish_reason is not None:
            written += self._chunks.finish(
                delta.choice, '"text":""', delta.finish_reason.value, delta.stop_reason
            )
        return written.encode()

    def _whole_choice(self, index: int, choice: WholeChoice) -> dict[str, Any]:
        prompt = self._prompt(index)
        told = None
        if self._logprobs is not None:
            told = self._logprobs.completion(choice.scores.drawn, first_offset=self._begin(prompt))
            if self._echoes:
                before = self._logprobs.prompt(prompt.token_ids, choice.scores.prompt)
                told = {name: before[name] + values for name, values in told.items()}
        text = prompt.text + choice.text if self._echoes else choice.text
        written = whole_choice(
            index, {"text": text}, choice, logprobs=told, reason=choice.finish_reason.value
        )
        if self._prompt_scores is not None:
            written |= self._prompt_scores.vllm_prompt(prompt.token_ids, choice.scores.prompt)
        return written

    def _prompt(self, choice: int) -> CompletionPrompt:
        index = choice // self._choices_per_prompt
        return self._prompts[index] if self._prompts else CompletionPrompt(())

    def _begin(self, prompt: CompletionPrompt) -> int:
        return len(prompt.text) if self._echoes else 0

    def _logprobs_member(self, delta: GenerationDelta) -> str:
        if self._logprobs is None:
            return ""
        begin = self._begin(self._prompt(delta.choice))
        told = self._logprobs.completion(delta.scores.drawn, first_offset=begin)
        return f',"logprobs":{as_json(told)}'

    def _echoed(self, delta: GenerationDelta) -> str:
        """The prompt's chunk, as soon as all its log probabilities are there."""
        assert self._logprobs is not None
        choice = delta.choice
        scored = self._scored.setdefault(choice, [])
        scored += delta.scores.prompt
        is_answering = delta.num_tokens > 0 or delta.finish_reason is not None
        if choice in self._have_begun or not is_answering:
            return ""
        self._have_begun.add(choice)
        prompt = self._prompt(choice)
        told = self._logprobs.prompt(prompt.token_ids, scored)
        return self._chunks.chunk(
            choice, f'"text":{as_json(prompt.text)},"logprobs":{as_json(told)}'
        )
