"""How answers are written: the OpenAI API's chat and completion objects, whole and in chunks.

A streamed chunk is written once per token and stream, so its constant parts are serialised once
per request and only the text goes through JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.core.request import FinishReason

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

DONE = b"data: [DONE]\n\n"


def event(content: object) -> bytes:
    """One server-sent event that carries `content` as JSON."""
    return f"data: {_ENCODER.encode(content)}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request: a prompt counts once, however many choices continue it."""

    prompt_tokens: int
    completion_tokens: int

    def as_object(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What all parts of one answer repeat. `created` is in unix seconds."""

    answer_id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class ChoiceText:
    """One whole choice."""

    text: str
    finish_reason: FinishReason


class AnswerFormat(Protocol):
    """Writes one answer. Chunks are complete server-sent events."""

    def opening(self, num_choices: int) -> bytes:
        """What a stream begins with; may be empty."""
        ...

    def text(self, choice: int, text: str) -> bytes:
        """A piece of text of one choice."""
        ...

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        """The end of one choice."""
        ...

    def usage(self, usage: Usage) -> bytes:
        """The usage chunk, which has no choices."""
        ...

    def whole(self, choices: Sequence[ChoiceText], usage: Usage) -> dict[str, Any]:
        """The answer as one object."""
        ...


class _Chunks:
    """The parts of a chunk that stay the same over one stream."""

    def __init__(self, kind: str, head: AnswerHead, *, includes_usage: bool) -> None:
        constant = {
            "id": head.answer_id,
            "object": kind,
            "created": head.created,
            "model": head.model,
        }
        self._head = f"data: {_ENCODER.encode(constant)[:-1]},"
        # With include_usage the OpenAI API sends "usage": null on every chunk but the last.
        self._end = "]" + (',"usage":null' if includes_usage else "") + "}\n\n"
        self.before = self._head + '"choices":[{"index":'
        self.after = ',"finish_reason":null}' + self._end

    def finish(self, choice: int, content: str, reason: FinishReason) -> bytes:
        return (
            f'{self.before}{choice},{content},"finish_reason":"{reason.value}"}}{self._end}'
        ).encode()

    def usage(self, usage: Usage) -> bytes:
        return (
            f'{self._head}"choices":[],"usage":{_ENCODER.encode(usage.as_object())}}}\n\n'
        ).encode()


class ChatFormat:
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, head: AnswerHead, *, includes_usage: bool = False) -> None:
        self._answer_head = head
        self._chunks = _Chunks("chat.completion.chunk", head, includes_usage=includes_usage)

    def opening(self, num_choices: int) -> bytes:
        before, after = self._chunks.before, self._chunks.after
        return "".join(
            f'{before}{choice},"delta":{{"role":"assistant","content":""}}{after}'
            for choice in range(num_choices)
        ).encode()

    def text(self, choice: int, text: str) -> bytes:
        chunks = self._chunks
        return (
            f'{chunks.before}{choice},"delta":{{"content":{_ENCODER.encode(text)}}}{chunks.after}'
        ).encode()

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        return self._chunks.finish(choice, '"delta":{}', reason)

    def usage(self, usage: Usage) -> bytes:
        return self._chunks.usage(usage)

    def whole(self, choices: Sequence[ChoiceText], usage: Usage) -> dict[str, Any]:
        return _whole(
            "chat.completion",
            self._answer_head,
            [{"message": _assistant(choice.text)} for choice in choices],
            choices,
            usage,
        )


class CompletionFormat:
    """`text_completion`, whole and in chunks."""

    def __init__(self, head: AnswerHead, *, includes_usage: bool = False) -> None:
        self._answer_head = head
        self._chunks = _Chunks("text_completion", head, includes_usage=includes_usage)

    def opening(self, num_choices: int) -> bytes:
        return b""

    def text(self, choice: int, text: str) -> bytes:
        chunks = self._chunks
        return f'{chunks.before}{choice},"text":{_ENCODER.encode(text)}{chunks.after}'.encode()

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        return self._chunks.finish(choice, '"text":""', reason)

    def usage(self, usage: Usage) -> bytes:
        return self._chunks.usage(usage)

    def whole(self, choices: Sequence[ChoiceText], usage: Usage) -> dict[str, Any]:
        return _whole(
            "text_completion",
            self._answer_head,
            [{"text": choice.text} for choice in choices],
            choices,
            usage,
        )


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "refusal": None}


def _whole(
    kind: str,
    head: AnswerHead,
    contents: Sequence[dict[str, Any]],
    choices: Sequence[ChoiceText],
    usage: Usage,
) -> dict[str, Any]:
    return {
        "id": head.answer_id,
        "object": kind,
        "created": head.created,
        "model": head.model,
        "choices": [
            {"index": i, **content, "logprobs": None, "finish_reason": choice.finish_reason.value}
            for i, (content, choice) in enumerate(zip(contents, choices, strict=True))
        ],
        "usage": usage.as_object(),
    }
