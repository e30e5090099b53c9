"""The answer of `/v1/responses`: one object, or the sequence of typed events that builds it."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.api.answers.format import AnswerHead, Usage, WholeChoice, as_json
from server.api.answers.logprobs import LogprobObjects
from server.api.errors import error_object, row_of
from server.api.requests.responses_api import LOGPROBS, ResponseBody
from server.api.tool_calls.tool_pieces import (
    ArgumentsPiece,
    CallPiece,
    ContentPiece,
    Piece,
    ToolParser,
)
from server.core.logprobs import TokenLogprobs
from server.core.request import FinishReason, GenerationDelta

Json = dict[str, Any]

_ERROR_CODES: Mapping[int, str] = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""`response.error.code` by the status of the same error; everything else is `server_error`."""


class ResponsesFormat:
    """Writes one response. The object and the events are built by the same code."""

    end = b""

    def __init__(
        self,
        head: AnswerHead,
        body: ResponseBody,
        *,
        logprobs: LogprobObjects,
        make_parser: Callable[[], ToolParser] | None = None,
    ) -> None:
        self._head = head
        self._body = body
        self._logprobs = logprobs if LOGPROBS in body.include else None
        self._parser = make_parser() if make_parser is not None else None
        self._output: list[Json] = []
        self._is_open = False
        self._num_events = 0
        self._reason: FinishReason | None = None
        self._events: list[bytes] = []

    def opening(self, num_choices: int) -> bytes:
        self._emit("response.created", response=self._response("in_progress", None))
        self._emit("response.in_progress", response=self._response("in_progress", None))
        return self._flush()

    def delta(self, delta: GenerationDelta) -> bytes:
        pieces: list[Piece] = []
        if self._parser is None:
            if delta.text or delta.scores.drawn:
                pieces.append(ContentPiece(delta.text))
        else:
            pieces += self._parser.push(delta.text) if delta.text else ()
            if delta.finish_reason is not None:
                pieces += self._parser.finish()
        entries: Sequence[TokenLogprobs] = delta.scores.drawn
        for piece in pieces:
            self._add(piece, entries)
            entries = ()  # the first piece carries them all
        if delta.finish_reason is not None:
            self._reason = delta.finish_reason
            if not self._output:
                self._open_message()
            self._close("incomplete" if self._is_cut else "completed")
        return self._flush()

    def closing(self, usage: Usage) -> bytes:
        status = "incomplete" if self._is_cut else "completed"
        self._emit(f"response.{status}", response=self._response(status, usage))
        return self._flush()

    def error(self, error: Exception) -> bytes:
        told, status = error_object(error)["error"], row_of(error).status
        self._emit("error", code=told["code"], message=told["message"], param=told["param"])
        failed = self._response("failed", None)
        code = _ERROR_CODES.get(status, "server_error")
        failed["error"] = {"code": code, "message": told["message"]}
        self._emit("response.failed", response=failed)
        return self._flush()

    def whole(self, choices: Sequence[WholeChoice], usage: Usage) -> Json:
        choice = choices[0]
        self.delta(GenerationDelta(0, choice.text, 0, choice.finish_reason, scores=choice.scores))
        return self._response("incomplete" if self._is_cut else "completed", usage)

    @property
    def _is_cut(self) -> bool:
        return self._reason is FinishReason.LENGTH

    def _add(self, piece: Piece, entries: Sequence[TokenLogprobs]) -> None:
        match piece:
            case ContentPiece(text):
                self._add_text(text, entries)
            case CallPiece(_, call_id, name):
                self._close("completed")
                item = {
                    "type": "function_call",
                    "id": _new_id("fc_"),
                    "call_id": call_id,
                    "name": name,
                    "arguments": "",
                    "status": "in_progress",
                }
                self._open(item)
            case ArgumentsPiece(_, text):
                item = self._output[-1]
                item["arguments"] += text
                self._emit("response.function_call_arguments.delta", **self._place(), delta=text)

    def _add_text(self, text: str, entries: Sequence[TokenLogprobs]) -> None:
        if not self._is_open or self._output[-1]["type"] != "message":
            self._close("completed")
            self._open_message()
        part = self._output[-1]["content"][0]
        part["text"] += text
        told = self._logprobs.chat_tokens(entries) if self._logprobs is not None else []
        part["logprobs"] += told
        self._emit(
            "response.output_text.delta",
            **self._place(),
            content_index=0,
            delta=text,
            logprobs=told,
        )

    def _open_message(self) -> None:
        item: Json = {
            "type": "message",
            "id": _new_id("msg_"),
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self._open(item)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item["content"] = [part]
        self._emit("response.content_part.added", **self._place(), content_index=0, part=part)

    def _open(self, item: Json) -> None:
        self._output.append(item)
        self._is_open = True
        self._emit("response.output_item.added", output_index=len(self._output) - 1, item=item)

    def _close(self, status: str) -> None:
        """End the item that is being written, if there is one."""
        if not self._is_open:
            return
        self._is_open = False
        item = self._output[-1]
        if item["type"] == "message":
            part = item["content"][0]
            place = {**self._place(), "content_index": 0}
            self._emit(
                "response.output_text.done", **place, text=part["text"], logprobs=part["logprobs"]
            )
            self._emit("response.content_part.done", **place, part=part)
        else:
            self._emit(
                "response.function_call_arguments.done",
                **self._place(),
                name=item["name"],
                arguments=item["arguments"],
            )
        item["status"] = status
        self._emit("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _place(self) -> Json:
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1}

    def _emit(self, kind: str, **content: Any) -> None:
        event = {"type": kind, "sequence_number": self._num_events, **content}
        self._num_events += 1
        self._events.append(f"event: {kind}\ndata: {as_json(event)}\n\n".encode())

    def _flush(self) -> bytes:
        events = b"".join(self._events)
        self._events.clear()
        return events

    def _response(self, status: str, usage: Usage | None) -> Json:
        body = self._body
        return {
            "id": self._head.answer_id,
            "object": "response",
            "created_at": self._head.created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": (
                {"reason": "max_output_tokens"} if status == "incomplete" else None
            ),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "model": self._head.model,
            "output": self._output,
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": body.reasoning.effort, "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": False,
            "temperature": body.temperature,
            "text": {"format": body.text.format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": _dumped(body.tool_choice),
            "tools": [tool.model_dump() for tool in body.tools],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": body.truncation,
            "usage": None if usage is None else _usage(usage),
            "user": body.user,
            "metadata": body.metadata,
        }


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _dumped(value: Any) -> Any:
    return value if isinstance(value, str) else value.model_dump()


def _new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)
