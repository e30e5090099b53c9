"""`chat.completion` and `chat.completion.chunk`."""

from collections.abc import Callable, Sequence
from typing import Any

from server.api.answers.format import (
    AnswerHead,
    ChunkedFormat,
    StreamReport,
    Usage,
    WholeChoice,
    as_json,
    whole_choice,
)
from server.api.answers.logprobs import LogprobObjects
from server.api.tool_calls.tool_pieces import (
    CallPiece,
    ContentPiece,
    Piece,
    ToolParser,
    WholeCall,
    parse_whole,
)
from server.core.request import FinishReason, GenerationDelta


class ChatFormat(ChunkedFormat):
    """Writes one chat answer.

    `logprobs` is None unless they were asked for, `make_parser` unless tools may be called.
    With `uses_functions` calls have the OpenAI API's older form: one `function_call`.
    `prompt_scores` has the prompt's tokens too, for vLLM's member of them; None leaves it out.
    """

    def __init__(
        self,
        head: AnswerHead,
        report: StreamReport = StreamReport(),  # noqa: B008 - frozen
        *,
        logprobs: LogprobObjects | None = None,
        make_parser: Callable[[], ToolParser] | None = None,
        uses_functions: bool = False,
        prompt_scores: tuple[LogprobObjects, Sequence[int]] | None = None,
    ) -> None:
        super().__init__("chat.completion", "chat.completion.chunk", head, report)
        self._logprobs = logprobs
        self._make_parser = make_parser
        self._uses_functions = uses_functions
        self._prompt_scores = prompt_scores
        self._parsers: dict[int, ToolParser] = {}
        self._have_called: set[int] = set()

    def opening(self, num_choices: int) -> bytes:
        return "".join(
            self._chunks.chunk(choice, '"delta":{"role":"assistant","content":""}')
            for choice in range(num_choices)
        ).encode()

    def delta(self, delta: GenerationDelta) -> bytes:
        if self._counts_along:
            self._chunks.count(delta.num_tokens)
        if self._make_parser is not None:
            written = self._parsed(delta)
        elif delta.text or delta.scores.drawn:
            content = f'"delta":{{"content":{as_json(delta.text)}}}{self._logprobs_member(delta)}'
            written = self._chunks.chunk(delta.choice, content)
        else:
            written = ""
        if delta.finish_reason is not None:
            reason = self._reason(delta.choice, delta.finish_reason)
            written += self._chunks.finish(delta.choice, '"delta":{}', reason, delta.stop_reason)
        return written.encode()

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> dict[str, Any]:
        answer = super().whole(choices, usage)
        if self._prompt_scores is not None:
            objects, prompt = self._prompt_scores
            answer |= objects.vllm_prompt(prompt, choices[0].scores.prompt)
        return answer

    def _whole_choice(self, index: int, choice: WholeChoice) -> dict[str, Any]:
        calls: tuple[WholeCall, ...] = ()
        text: str | None = choice.text
        if self._make_parser is not None:
            text, calls = parse_whole(self._make_parser(), choice.text)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not text else text,
            "refusal": None,
        }
        if calls:
            self._have_called.add(index)
            if self._uses_functions:
                message["function_call"] = _function(calls[0])
            else:
                message["tool_calls"] = [
                    {"id": call.call_id, "type": "function", "function": _function(call)}
                    for call in calls
                ]
        return whole_choice(
            index,
            {"message": message},
            choice,
            logprobs=self._logprobs.chat(choice.scores.drawn) if self._logprobs else None,
            reason=self._reason(index, choice.finish_reason),
        )

    def _logprobs_member(self, delta: GenerationDelta) -> str:
        """The member that carries a delta's log probabilities."""
        if self._logprobs is None:
            return ""
        told = self._logprobs.chat(delta.scores.drawn) if delta.scores.drawn else None
        return f',"logprobs":{as_json(told)}'

    def _parsed(self, delta: GenerationDelta) -> str:
        """The chunks of what the choice's parser makes of a delta."""
        assert self._make_parser is not None
        parser = self._parsers.get(delta.choice)
        if parser is None:
            parser = self._parsers[delta.choice] = self._make_parser()
        pieces = list(parser.push(delta.text)) if delta.text else []
        if delta.finish_reason is not None:
            pieces += parser.finish()
        contents = [self._piece(delta.choice, piece) for piece in pieces]
        if delta.scores.drawn and not contents:
            contents = [{}]
        chunks, told = [], self._logprobs_member(delta)
        for content in contents:
            chunks.append(self._chunks.chunk(delta.choice, f'"delta":{as_json(content)}{told}'))
            told = ""  # the first chunk carries them all
        return "".join(chunks)

    def _piece(self, choice: int, piece: Piece) -> dict[str, Any]:
        if isinstance(piece, ContentPiece):
            return {"content": piece.text}
        if isinstance(piece, CallPiece):
            self._have_called.add(choice)
            function = {"name": piece.name, "arguments": ""}
            if self._uses_functions:
                return {"function_call": function}
            begun = {"index": piece.index, "id": piece.call_id, "type": "function"}
            return {"tool_calls": [{**begun, "function": function}]}
        arguments = {"arguments": piece.text}
        if self._uses_functions:
            return {"function_call": arguments}
        return {"tool_calls": [{"index": piece.index, "function": arguments}]}

    def _reason(self, choice: int, reason: FinishReason) -> str:
        if choice in self._have_called and reason is FinishReason.STOP:
            return "function_call" if self._uses_functions else "tool_calls"
        return reason.value


def _function(call: WholeCall) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}
