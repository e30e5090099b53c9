"""What is learnt of a request while it is answered, for its line in the log."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class RequestFacts:
    """`adapter` is what answers, as the answer calls it (`sql@3`, a stack, the base's id).

    Tokens are of all prompts and all choices. `ttft_seconds` is from the request's arrival to its
    first token. `error_code` and `error_param` are the refusal's. None is not known (yet).
    """

    started: float = field(default_factory=time.perf_counter)
    adapter: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int = 0
    ttft_seconds: float | None = None
    error_code: str | None = None
    error_param: str | None = None

    def note_prompt(self, num_tokens: int) -> None:
        """One more prompt was sent to the engine."""
        self.prompt_tokens = (self.prompt_tokens or 0) + num_tokens

    def note_tokens(self, num_tokens: int) -> None:
        """The engine drew so many tokens more."""
        if num_tokens and self.ttft_seconds is None:
            self.ttft_seconds = time.perf_counter() - self.started
        self.completion_tokens += num_tokens

    def as_fields(self) -> dict[str, Any]:
        """What is known, as fields of a log record."""
        found: dict[str, Any] = {}
        if self.adapter is not None:
            found["adapter"] = self.adapter
        if self.prompt_tokens is not None:
            found["prompt_tokens"] = self.prompt_tokens
            found["completion_tokens"] = self.completion_tokens
        if self.ttft_seconds is not None:
            found["ttft_seconds"] = round(self.ttft_seconds, 4)
        if self.error_code is not None:
            found["error_code"] = self.error_code
        if self.error_param is not None:
            found["error_param"] = self.error_param
        return found

    def as_text(self) -> str:
        """The same for people: ` sql@3, 12 + 40 tokens, the first after 0.051 s`."""
        parts: list[str] = []
        if self.adapter is not None:
            parts.append(self.adapter)
        if self.prompt_tokens is not None:
            parts.append(f"{self.prompt_tokens} + {self.completion_tokens} tokens")
        if self.ttft_seconds is not None:
            parts.append(f"the first after {self.ttft_seconds:.3f} s")
        if self.error_code is not None:
            of = f" ({self.error_param})" if self.error_param else ""
            parts.append(f"refused: {self.error_code}{of}")
        return ", ".join(parts)


CURRENT_FACTS: ContextVar[RequestFacts | None] = ContextVar("request_facts", default=None)
"""Those of the request that the running task belongs to; tasks that it starts share them."""
