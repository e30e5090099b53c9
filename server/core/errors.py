"""What can go wrong on the serving side, as one tree.

SwitchyardError
├── RequestError            the caller's mistake: the message names the value, the limit, the remedy
│   ├── PromptTooLongError
│   ├── AdapterTooLargeError
│   └── PinLimitError       pinned adapters would fill the host cache or the device bank
├── AdapterUnavailableError the store has no such adapter
├── AdapterUnreadableError  the store has it, but its files can't be served; says why
├── MergeFailedError        a merge of adapters could not be made; says why
├── OverloadedError         the queue is full: try again after `retry_after_seconds`
├── DeadlineExceededError   the answer wasn't complete in the time it had
├── SlowReaderError         the caller doesn't take what was generated for it
├── UnsupportedModelError   the base model's architecture can't be served; says why
├── ConfigurationError      settings that contradict each other; lists all of them
├── EngineStalledError      a step takes so long that it may never end
├── RenderingDownError      no process can render chat templates, for the moment
└── EngineDeadError         the step loop has ended; nothing more is accepted

To add one: subclass the nearest parent, write the message for the person who reads it, and give it
a row in the table of `server/api/errors.py` if it can reach a client.
"""

from collections.abc import Sequence


class SwitchyardError(Exception):
    """Base of every error that this server raises on purpose."""


class RequestError(SwitchyardError):
    """The request can't be served as it stands. `param` names the field, when there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLongError(RequestError):
    """The prompt, with one token of answer, does not fit in the model's window."""


class AdapterTooLargeError(RequestError):
    """An adapter, or all adapters of a stack together, exceed what the bank can hold."""


class PinLimitError(RequestError):
    """Pinned adapters and this one together exceed what the host cache, or the bank, may hold."""


class AdapterUnavailableError(SwitchyardError):
    """A named adapter isn't in the store."""


class AdapterUnreadableError(SwitchyardError):
    """An adapter that the store has can't be served: its files are broken, or it has no effect."""


class MergeFailedError(SwitchyardError):
    """The adapters can't be merged as asked."""


class OverloadedError(SwitchyardError):
    """No room in the queue."""

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceededError(SwitchyardError):
    """The request's time is over; what was generated so far is all there is."""


class SlowReaderError(SwitchyardError):
    """More of the answer is waiting to be read than may be held for one caller."""


class UnsupportedModelError(SwitchyardError):
    """This architecture can't be served."""


class ConfigurationError(SwitchyardError):
    """Settings that can't work, all of them at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"- {problem}" for problem in problems))
        self.problems = tuple(problems)


class RenderingDownError(SwitchyardError):
    """No process can be started that renders chat templates, or the server stops."""


class EngineDeadError(SwitchyardError):
    """The step loop has ended."""


class EngineStalledError(SwitchyardError):
    """The present step takes too long for anything new to be accepted behind it."""
