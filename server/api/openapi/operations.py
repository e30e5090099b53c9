"""What each route takes and answers, for the OpenAPI document: one table, `OPERATIONS`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from server.api.requests.administration import AliasBody, MergeBody
from server.api.requests.chat_and_completion import (
    ChatBody,
    CompletionBody,
    LoadAdapterBody,
    UnloadAdapterBody,
)
from server.api.requests.responses_api import ResponseBody
from server.api.routes.token_routes import DetokenizeBody, TokenizeBody

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """`answers` are schema names by media type; `text` is plain text."""

    summary: str
    answers: Mapping[str, str] = field(default_factory=dict)
    body: type[BaseModel] | None = None


def _json(summary: str, answer: str, body: type[BaseModel] | None = None) -> Operation:
    return Operation(summary, {_JSON: answer}, body)


def _text(summary: str, body: type[BaseModel] | None = None) -> Operation:
    return Operation(summary, {"text/plain": "text"}, body)


def _generating(summary: str, answer: str, body: type[BaseModel]) -> Operation:
    return Operation(summary, {_JSON: answer, "text/event-stream": "Event"}, body)


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): _generating(
        "Continue a conversation", "ChatCompletion", ChatBody
    ),
    ("POST", "/v1/completions"): _generating("Continue text", "Completion", CompletionBody),
    ("POST", "/v1/responses"): _generating(
        "Answer in the newer API's form, without storing it", "Response", ResponseBody
    ),
    ("POST", "/tokenize"): _json("Tokens of a prompt", "Tokens", TokenizeBody),
    ("POST", "/detokenize"): _json("Text of tokens", "Text", DetokenizeBody),
    ("GET", "/v1/models"): _json("The base and the adapters", "ModelList"),
    ("GET", "/v1/models/{model_id:path}"): _json("One of them", "Model"),
    ("GET", "/v1/limits"): _json("What an adapter must be to be served here", "Limits"),
    ("GET", "/v1/adapters"): _json("Every adapter with its versions", "AdapterList"),
    ("GET", "/v1/adapters/{name}"): _json("One adapter in detail", "AdapterDetail"),
    ("DELETE", "/v1/adapters/{name}"): _json("Remove a version", "Deleted"),
    ("PUT", "/v1/adapters/{name}/alias"): _json(
        "Point a name at a version, or at several by weight", "Adapter", AliasBody
    ),
    ("POST", "/v1/adapters/{name}/pin"): _json(
        "Keep it in host memory, or with ?tier=device on the device", "AdapterVersion"
    ),
    ("POST", "/v1/adapters/{name}/unpin"): _json("Let it go again", "AdapterVersion"),
    ("POST", "/v1/adapters/{name}/prefetch"): _json("Load it now", "AdapterVersion"),
    ("POST", "/v1/adapters/merge"): _json("Make one adapter of several", "Merge", MergeBody),
    ("POST", "/v1/load_lora_adapter"): _text("vLLM's: import an adapter", LoadAdapterBody),
    ("POST", "/v1/unload_lora_adapter"): _text("vLLM's: offer it no more", UnloadAdapterBody),
    ("GET", "/health"): _json("The engine steps; vLLM's path", "Status"),
    ("GET", "/health/live"): _json("The process answers", "Status"),
    ("GET", "/health/ready"): _json("The engine steps", "Status"),
    ("GET", "/version"): _json("The server's version", "Version"),
    ("GET", "/metrics"): Operation(
        "Prometheus series", {"text/plain": "text", "application/openmetrics-text": "text"}
    ),
    ("GET", "/openapi.json"): _json("This document", "Document"),
}
