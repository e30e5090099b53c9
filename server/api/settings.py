"""Limits and times of the HTTP side."""

from dataclasses import dataclass

from server.api.tool_calls.tool_formats import ToolFormat
from server.core.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What one HTTP request may ask for, and how long a stream may stay silent.

    `max_bodies_bytes` bounds the bodies of all requests in the server together.
    `max_choices` bounds prompts times `n` of one request. A stream waits `opening_seconds` for its
    first token before it sends its headers: an error found by then still has its own HTTP status.
    `keep_alive_seconds` lies between two comments on a stream. When the server is told to stop, the
    streams that run get `shutdown_grace_seconds` to come to their end. A request's body must come
    within `body_seconds`, and its answer be complete `request_timeout_seconds` after it began (None
    for whenever). Keys reuse each other's cached prompts only when `share_prefix_cache`. `/metrics`
    needs a key when `metrics_need_key`; prompts are logged only when `log_prompts`. `tool_format`
    is how the model writes tool calls; None finds out from its chat template.
    """

    max_body_bytes: int = 8 * 1024 * 1024
    max_bodies_bytes: int = 128 * 1024 * 1024
    max_choices: int = 128
    opening_seconds: float = 1.0
    keep_alive_seconds: float = 15.0
    shutdown_grace_seconds: float = 10.0
    body_seconds: float = 30.0
    request_timeout_seconds: float | None = 600.0
    share_prefix_cache: bool = False
    metrics_need_key: bool = False
    log_prompts: bool = False
    tool_format: ToolFormat | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}; it must be at least {least}"
            for name, least in (("max_body_bytes", 1024), ("max_choices", 1))
            if getattr(self, name) < least
        ]
        problems += [
            f"{name} is {getattr(self, name)}; it must not be negative"
            for name in ("opening_seconds", "keep_alive_seconds", "shutdown_grace_seconds")
            if getattr(self, name) < 0
        ]
        problems += [
            f"{name} is {value}; it must be more than 0"
            for name in ("body_seconds", "request_timeout_seconds")
            if (value := getattr(self, name)) is not None and value <= 0
        ]
        if problems:
            raise ConfigurationError(problems)
