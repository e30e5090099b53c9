"""How answers are written: what every endpoint's answer has in common.

A streamed chunk is written once per token and stream, so its constant parts are serialised once
per request and only the text goes through JSON.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.api.errors import error_object
from server.core.logprobs import NO_SCORES, Scores
from server.core.request import FinishReason, GenerationDelta

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

DONE = b"data: [DONE]\n\n"

as_json = _ENCODER.encode


def event(content: object) -> bytes:
    """One server-sent event that carries `content` as JSON."""
    return f"data: {as_json(content)}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request: a prompt counts once, however many choices continue it.

    `cached_tokens` are those of the prompts that weren't computed again; None while not all are
    known.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None

    def as_object(self) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        if self.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        return usage


class CachedPrompts:
    """Adds up what the prefix cache had of each prompt, from the beginnings of its choices.

    Of several choices of one prompt the least counts: their prompt was computed at least once.
    """

    def __init__(self, choices_per_prompt: int) -> None:
        self._choices_per_prompt = choices_per_prompt
        self._by_prompt: dict[int, int] = {}

    def note(self, delta: GenerationDelta) -> None:
        """Take over the delta's beginning, if it has one."""
        if (beginning := delta.beginning) is not None:
            prompt, found = delta.choice // self._choices_per_prompt, beginning.num_cached_tokens
            self._by_prompt[prompt] = min(found, self._by_prompt.get(prompt, found))

    @property
    def num_tokens(self) -> int:
        return sum(self._by_prompt.values())


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What all parts of one answer repeat. `created` is in unix seconds."""

    answer_id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What a stream tells about its usage: at the end, along the way, or nothing."""

    includes_usage: bool = False
    counts_along: bool = False
    num_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class WholeChoice:
    """One whole choice."""

    text: str
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    num_tokens: int = 0
    scores: Scores = NO_SCORES

    @property
    def mean_logprob(self) -> float:
        """How probable the model found its own words, by token; 0 without log probabilities."""
        drawn = self.scores.drawn
        return sum(entry.logprob for entry in drawn) / len(drawn) if drawn else 0.0


class AnswerFormat(Protocol):
    """Writes one answer. Chunks are complete server-sent events, one or several."""

    def opening(self, num_choices: int) -> bytes:
        """What a stream begins with; may be empty."""
        ...

    def delta(self, delta: GenerationDelta) -> bytes:
        """What one delta adds; empty when it shows nothing."""
        ...

    def closing(self, usage: Usage) -> bytes:
        """What comes when all choices have ended; may be empty."""
        ...

    def error(self, error: Exception) -> bytes:
        """That the stream broke off."""
        ...

    @property
    def end(self) -> bytes:
        """The very last event."""
        ...

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> dict[str, Any]:
        """The answer as one object."""
        ...


class ChunkWriter:
    """The parts of a chunk that stay the same over one stream, and the usage that doesn't."""

    def __init__(self, kind: str, head: AnswerHead, report: StreamReport) -> None:
        constant = {
            "id": head.answer_id,
            "object": kind,
            "created": head.created,
            "model": head.model,
        }
        self._head = f"data: {as_json(constant)[:-1]},"
        self._report = report
        self._num_tokens = 0
        # With include_usage the OpenAI API sends "usage": null on every chunk but the last.
        self._tail = "]" + (',"usage":null' if report.includes_usage else "") + "}\n\n"
        self._before = self._head + '"choices":[{"index":'
        self.count(0)

    def count(self, num_tokens: int) -> None:
        """Note generated tokens, for usage that is told along the way."""
        if self._report.counts_along:
            self._num_tokens += num_tokens
            usage = Usage(self._report.num_prompt_tokens, self._num_tokens)
            self._tail = f'],"usage":{as_json(usage.as_object())}}}\n\n'

    def chunk(self, choice: int, content: str) -> str:
        """A chunk of a choice that goes on; `content` are members of its object."""
        return f'{self._before}{choice},{content},"finish_reason":null}}{self._tail}'

    def finish(self, choice: int, content: str, reason: str, stop_reason: str | int | None) -> str:
        """A choice's last chunk."""
        more = "" if stop_reason is None else f',"stop_reason":{as_json(stop_reason)}'
        return f'{self._before}{choice},{content},"finish_reason":"{reason}"{more}}}{self._tail}'

    def closing(self, usage: Usage) -> bytes:
        """The usage chunk, if it was asked for."""
        if not self._report.includes_usage:
            return b""
        return f'{self._head}"choices":[],"usage":{as_json(usage.as_object())}}}\n\n'.encode()


def whole_choice(
    index: int, content: dict[str, Any], choice: WholeChoice, *, logprobs: Any, reason: str
) -> dict[str, Any]:
    """A choice's object around its content."""
    written = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}
    if choice.stop_reason is not None:
        written["stop_reason"] = choice.stop_reason
    return written


class ChunkedFormat(ABC):
    """What chat and text completions have in common as an `AnswerFormat`.

    A subclass makes `opening`, `delta` and the single whole choices.
    """

    end = DONE

    def __init__(self, kind: str, chunk_kind: str, head: AnswerHead, report: StreamReport) -> None:
        self._kind = kind
        self._head = head
        self._chunks = ChunkWriter(chunk_kind, head, report)
        self._counts_along = report.counts_along

    def closing(self, usage: Usage) -> bytes:
        return self._chunks.closing(usage)

    def error(self, error: Exception) -> bytes:
        return event(error_object(error))

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> dict[str, Any]:
        return {
            "id": self._head.answer_id,
            "object": self._kind,
            "created": self._head.created,
            "model": self._head.model,
            "choices": [self._whole_choice(i, choice) for i, choice in enumerate(choices)],
            "usage": usage.as_object(),
        }

    @abstractmethod
    def _whole_choice(self, index: int, choice: WholeChoice) -> dict[str, Any]:
        """A choice's object."""
