"""Every route of the server, one record each: `ROUTES`.

From a record follow the registration of its handler (`Route.on`), the right and the rate that the
door asks for, what answers while the server loads or drains, the label in the metrics, and the
operation in the OpenAPI document. To add a route: a record here, and a handler that stands on it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from re import Pattern
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.routing import compile_path

from server.api.access.callers import Right
from server.api.requests.administration import AliasBody, MergeBody
from server.api.requests.chat_and_completion import (
    ChatBody,
    CompletionBody,
    LoadAdapterBody,
    UnloadAdapterBody,
)
from server.api.requests.responses_api import ResponseBody
from server.api.requests.tokens import DetokenizeBody, TokenizeBody

_Handler = TypeVar("_Handler", bound=Callable[..., Any])

_JSON, _TEXT, _EVENTS = "application/json", "text/plain", "text/event-stream"


@dataclass(frozen=True, eq=False)
class Route:
    """One method on one path, and all that is decided by route.

    `path` is a template in Starlette's form. `right` is what a key needs; None is open to all.
    `answers` are schema names of the OpenAPI document by media type, where `text` is plain text;
    `body` is what the request carries. `rate_cost` is what a request takes of its key's requests
    per minute. A route that `is_always_open` answers while the server loads or drains too.
    """

    method: str
    path: str
    right: Right | None
    summary: str
    answers: Mapping[str, str]
    body: type[BaseModel] | None = None
    rate_cost: int = 0
    is_always_open: bool = False

    @cached_property
    def pattern(self) -> Pattern[str]:
        """What the paths of this route match."""
        return compile_path(self.path)[0]

    def on(self, router: APIRouter) -> Callable[[_Handler], _Handler]:
        """A decorator that makes a handler this route's."""

        def register(handler: _Handler) -> _Handler:
            router.add_api_route(self.path, handler, methods=[self.method], response_model=None)
            return handler

        return register


def _generating(path: str, summary: str, answer: str, body: type[BaseModel]) -> Route:
    answers = {_JSON: answer, _EVENTS: "Event"}
    return Route("POST", path, Right.INFER, summary, answers, body, rate_cost=1)


def _adapter(verb: str, summary: str) -> Route:
    path = f"/v1/adapters/{{name}}/{verb}"
    return Route("POST", path, Right.LOAD, summary, {_JSON: "AdapterVersion"})


CHAT = _generating("/v1/chat/completions", "Continue a conversation", "ChatCompletion", ChatBody)
COMPLETIONS = _generating("/v1/completions", "Continue text", "Completion", CompletionBody)
RESPONSES = _generating(
    "/v1/responses", "Answer in the newer API's form, without storing it", "Response", ResponseBody
)
TOKENIZE = Route(
    "POST", "/tokenize", Right.INFER, "Tokens of a prompt", {_JSON: "Tokens"}, TokenizeBody,
    rate_cost=1,
)  # fmt: skip
DETOKENIZE = Route(
    "POST", "/detokenize", Right.INFER, "Text of tokens", {_JSON: "Text"}, DetokenizeBody,
    rate_cost=1,
)  # fmt: skip
MODELS = Route("GET", "/v1/models", Right.INFER, "The base and the adapters", {_JSON: "ModelList"})
# A base id may hold slashes, as hub ids do.
MODEL = Route("GET", "/v1/models/{model_id:path}", Right.INFER, "One of them", {_JSON: "Model"})
LIMITS = Route(
    "GET", "/v1/limits", Right.INFER, "What an adapter must be to be served here",
    {_JSON: "Limits"},
)  # fmt: skip
ADAPTERS = Route(
    "GET", "/v1/adapters", Right.INFER, "Every adapter with its versions", {_JSON: "AdapterList"}
)
ADAPTER = Route(
    "GET", "/v1/adapters/{name}", Right.INFER, "One adapter in detail", {_JSON: "AdapterDetail"}
)
REMOVE = Route("DELETE", "/v1/adapters/{name}", Right.ADMIN, "Remove a version", {_JSON: "Deleted"})
ALIAS = Route(
    "PUT", "/v1/adapters/{name}/alias", Right.ADMIN,
    "Point a name at a version, or at several by weight", {_JSON: "Adapter"}, AliasBody,
)  # fmt: skip
PIN = _adapter("pin", "Keep it in host memory, or with ?tier=device on the device")
UNPIN = _adapter("unpin", "Let it go again")
PREFETCH = _adapter("prefetch", "Load it now")
MERGE = Route(
    "POST", "/v1/adapters/merge", Right.ADMIN, "Make one adapter of several", {_JSON: "Merge"},
    MergeBody,
)  # fmt: skip
LOAD_LORA = Route(
    "POST", "/v1/load_lora_adapter", Right.LOAD, "vLLM's: import an adapter", {_TEXT: "text"},
    LoadAdapterBody,
)  # fmt: skip
UNLOAD_LORA = Route(
    "POST", "/v1/unload_lora_adapter", Right.LOAD, "vLLM's: offer it no more", {_TEXT: "text"},
    UnloadAdapterBody,
)  # fmt: skip
HEALTH = Route("GET", "/health", None, "The engine steps; vLLM's path", {_JSON: "Status"})
LIVE = Route(
    "GET", "/health/live", None, "The process answers", {_JSON: "Status"}, is_always_open=True
)
READY = Route("GET", "/health/ready", None, "The engine steps", {_JSON: "Status"})
VERSION = Route(
    "GET", "/version", None, "The server's version", {_JSON: "Version"}, is_always_open=True
)
METRICS = Route(
    "GET", "/metrics", Right.METRICS, "Prometheus series",
    {_TEXT: "text", "application/openmetrics-text": "text"}, is_always_open=True,
)  # fmt: skip
DOCUMENT = Route("GET", "/openapi.json", None, "This document", {_JSON: "Document"})

ROUTES: tuple[Route, ...] = (
    CHAT, COMPLETIONS, RESPONSES, TOKENIZE, DETOKENIZE,
    MODELS, MODEL, LIMITS,
    ADAPTERS, ADAPTER, REMOVE, ALIAS, PIN, UNPIN, PREFETCH, MERGE, LOAD_LORA, UNLOAD_LORA,
    HEALTH, LIVE, READY, VERSION, METRICS, DOCUMENT,
)  # fmt: skip
"""In the order in which the OpenAPI document lists them."""


def route_for(method: str, path: str) -> Route | None:
    """The route that a request is for; None when there is none."""
    return next((r for r in ROUTES if r.method == method and r.pattern.match(path)), None)


def allowed_methods(path: str) -> list[str]:
    """The methods that a path takes; a path that is written out in a record is that one's alone."""
    exact = sorted(route.method for route in ROUTES if route.path == path)
    return exact or sorted({route.method for route in ROUTES if route.pattern.match(path)})
