"""Every error that a client can see, with its HTTP status: one table, `TABLE`.

Errors of this floor, beside those of `server.core.errors`:

ApiError
├── BodyTooLargeError       the request body is over the limit
├── AuthenticationError     no key, or one that nobody has
├── PermissionDeniedError   the key may not do this
├── RateLimitedError        the key's requests or tokens per minute are used up
├── HeadersTooLargeError    the request's line and headers are over the limit
├── TooManyConnectionsError more connections are open than the server holds
├── SlowBodyError           the request's body doesn't arrive
├── NothingToLoadError      no adapter can be loaded from the path that the client gave
├── UnknownUrlError         no such route
├── MethodNotAllowedError   the route has other methods
├── NotReadyError           the engine doesn't step
├── DrainingError           the server stops, and takes nothing new
├── GenerationFailedError   the engine gave up on an accepted request
├── GenerationAbortedError  the engine ended an accepted request because it stops
└── ClientGoneError         nobody reads the answer any more

To add one: subclass `ApiError` (or an error of `server.core`), and give it a row. A row holds for
all subclasses that have none of their own. The object that goes out is the OpenAI API's
(https://platform.openai.com/docs/guides/error-codes).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import JSONResponse

from adapters.errors import (
    AdapterError,
    AdapterExistsError,
    AdapterInUseError,
    AdapterNotFoundError,
    StoreError,
    UnsoundError,
)
from server.api.request_facts import CURRENT_FACTS
from server.core.errors import (
    AdapterTooLargeError,
    AdapterUnavailableError,
    AdapterUnreadableError,
    DeadlineExceededError,
    EngineDeadError,
    EngineStalledError,
    MergeFailedError,
    OverloadedError,
    PinLimitError,
    PromptTooLongError,
    RenderingDownError,
    RequestError,
    SlowReaderError,
    SwitchyardError,
)


class ApiError(SwitchyardError):
    """Base of the errors that only HTTP knows."""


class BodyTooLargeError(ApiError):
    """The request body is over the limit."""


class AuthenticationError(ApiError):
    """The request has no key, or one that isn't valid."""


class PermissionDeniedError(ApiError):
    """The key is valid and may not do this. `param` names the field, when there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class RateLimitedError(ApiError):
    """The key has used up its rate; there is room again after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class HeadersTooLargeError(ApiError):
    """The request line and headers together are over the limit."""


class TooManyConnectionsError(ApiError):
    """All connections are taken."""


class SlowBodyError(ApiError):
    """The rest of the body didn't come in time."""


class DrainingError(ApiError):
    """The server was told to stop: it finishes what it has."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NothingToLoadError(ApiError):
    """No adapter can be loaded from where the client said."""


class UnknownUrlError(ApiError):
    """No route has this path."""


class MethodNotAllowedError(ApiError):
    """The route has other methods; `allowed` is its `Allow` header."""

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class NotReadyError(ApiError):
    """The engine doesn't step (yet, or any more)."""


class GenerationFailedError(ApiError):
    """An accepted request ended with an error of the engine's."""


class GenerationAbortedError(ApiError):
    """An accepted request was ended by the engine, not by its caller."""


class ClientGoneError(ApiError):
    """The client closed the connection before its answer was ready."""


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """How one kind of error goes out. `param` is used where the error itself names none."""

    status: int
    type: str
    code: str | None = None
    param: str | None = None
    retry_after_seconds: float | None = None


_PATH = re.compile(
    r"""(?P<quote>['"])/(?!/)[^'"\n]*(?P=quote)|(?<![\w.:/~])~?/[\w.@+~-]+(?:/[\w.@+~-]*)*"""
)
"""An absolute path: whatever is in quotes behind a slash, or words with slashes between them."""

_PLAIN_PARAM = re.compile(r"[\w.\[\]@-]{1,80}", re.ASCII)
"""A field's name that may stand in a log line: clients make names up."""

_ROUTES = ("/v1/", "/health", "/metrics", "/tokenize", "/detokenize", "/openapi.json", "/version")

_INVALID = "invalid_request_error"
_SERVER = "server_error"

TABLE: Mapping[type[Exception], ErrorRow] = {
    RequestError: ErrorRow(400, _INVALID),
    PromptTooLongError: ErrorRow(400, _INVALID, "context_length_exceeded"),
    AdapterTooLargeError: ErrorRow(400, _INVALID, "adapter_too_large", "model"),
    PinLimitError: ErrorRow(409, _INVALID, "pin_limit_reached", "name"),
    AdapterError: ErrorRow(400, _INVALID, "invalid_adapter", "lora_path"),
    AdapterExistsError: ErrorRow(400, _INVALID, "adapter_exists", "lora_name"),
    NothingToLoadError: ErrorRow(404, _INVALID, "adapter_not_found", "lora_name"),
    AdapterNotFoundError: ErrorRow(404, _INVALID, "adapter_not_found", "lora_name"),
    UnsoundError: ErrorRow(409, _INVALID, "adapter_unsound", "version"),
    AdapterInUseError: ErrorRow(409, _INVALID, "adapter_in_use", "name"),
    StoreError: ErrorRow(500, _SERVER, "store_failed"),
    AuthenticationError: ErrorRow(401, _INVALID, "invalid_api_key"),
    PermissionDeniedError: ErrorRow(403, _INVALID, "permission_denied"),
    AdapterUnavailableError: ErrorRow(404, _INVALID, "model_not_found", "model"),
    AdapterUnreadableError: ErrorRow(500, _SERVER, "adapter_unreadable", "model"),
    MergeFailedError: ErrorRow(400, _INVALID, "merge_failed", "adapters"),
    UnknownUrlError: ErrorRow(404, _INVALID, "unknown_url"),
    MethodNotAllowedError: ErrorRow(405, _INVALID, "method_not_allowed"),
    DeadlineExceededError: ErrorRow(408, _INVALID, "deadline_exceeded"),
    SlowBodyError: ErrorRow(408, _INVALID, "request_timeout"),
    BodyTooLargeError: ErrorRow(413, _INVALID, "request_too_large"),
    OverloadedError: ErrorRow(429, "rate_limit_error", "rate_limit_exceeded"),
    RateLimitedError: ErrorRow(429, "rate_limit_error", "rate_limit_exceeded"),
    HeadersTooLargeError: ErrorRow(431, _INVALID, "headers_too_large"),
    SlowReaderError: ErrorRow(499, _INVALID, "client_too_slow"),
    ClientGoneError: ErrorRow(499, _INVALID, "client_closed_request"),
    GenerationFailedError: ErrorRow(500, _SERVER, "generation_failed"),
    GenerationAbortedError: ErrorRow(503, _SERVER, "generation_aborted", None, 1.0),
    DrainingError: ErrorRow(503, _SERVER, "draining"),
    TooManyConnectionsError: ErrorRow(503, _SERVER, "too_many_connections", None, 1.0),
    NotReadyError: ErrorRow(503, _SERVER, "not_ready", None, 1.0),
    EngineStalledError: ErrorRow(503, _SERVER, "engine_stalled", None, 5.0),
    RenderingDownError: ErrorRow(503, _SERVER, "rendering_unavailable", None, 5.0),
    EngineDeadError: ErrorRow(503, _SERVER, "engine_unavailable", None, 5.0),
    Exception: ErrorRow(500, _SERVER, "internal_error"),
}


def row_of(error: Exception) -> ErrorRow:
    """The table's row for `error`: its class's own, else its nearest ancestor's."""
    return next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)


def error_object(error: Exception) -> dict[str, dict[str, str | None]]:
    """The body that tells a client about `error`; an unforeseen one keeps its text to the log."""
    row = row_of(error)
    is_ours = isinstance(error, SwitchyardError | AdapterError)
    message = str(error) if is_ours else "The server failed on this request; its log says why."
    if row.status >= 500 or _is_of_files(error):
        message = without_paths(message)
    param = getattr(error, "param", None) or row.param
    return {"error": {"message": message, "type": row.type, "param": param, "code": row.code}}


def hides_a_path(error: Exception) -> bool:
    """Whether the client is told less than `error` says: the log must have the rest."""
    return error_object(error)["error"]["message"] != str(error)


def without_paths(text: str, said: str = "") -> str:
    """`text` for a client: where files are on this machine is for the log.

    Routes stay, and so does the path that the client itself `said`.
    """

    def hidden(found: re.Match[str]) -> str:
        path = found.group()
        quote = found.group("quote") or ""
        bare = path.strip(quote) if quote else path
        if bare.startswith(_ROUTES) or bare == said:
            return path
        return f"{quote}(a path){quote}"

    return _PATH.sub(hidden, text)


def _is_of_files(error: BaseException | None) -> bool:
    """Whether the text of `error` may come from what read or wrote files.

    Errors of this floor are written for clients.
    """
    if isinstance(error, ApiError):
        return False
    while error is not None:
        if isinstance(error, AdapterError | OSError):
            return True
        error = error.__cause__
    return False


def note_refusal(error: Exception) -> None:
    """Let the request's line in the log say what became of it."""
    if (facts := CURRENT_FACTS.get()) is not None:
        row = row_of(error)
        facts.error_code = row.code or row.type
        param = getattr(error, "param", None) or row.param
        facts.error_param = param if param and _PLAIN_PARAM.fullmatch(param) else None


def error_headers(error: Exception) -> dict[str, str]:
    """`Retry-After` (whole seconds, at least 1) and what else belongs to a status."""
    headers: dict[str, str] = {}
    seconds = getattr(error, "retry_after_seconds", None) or row_of(error).retry_after_seconds
    if seconds is not None:
        headers["retry-after"] = str(max(1, math.ceil(seconds)))
    if isinstance(error, MethodNotAllowedError):
        headers["allow"] = error.allowed
    if isinstance(error, AuthenticationError):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, BodyTooLargeError | SlowBodyError | DrainingError):
        headers["connection"] = "close"  # What is still to come of the body isn't waited for.
    if isinstance(error, DeadlineExceededError):
        headers["x-should-retry"] = "false"  # The openai package would send it again.
    return headers


def error_response(error: Exception) -> JSONResponse:
    """`error` as a whole HTTP answer; the request's line in the log says why too."""
    note_refusal(error)
    return JSONResponse(error_object(error), row_of(error).status, error_headers(error))
