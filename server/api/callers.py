"""Who asks: the key behind a request, and what it may do."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from server.api.errors import PermissionDeniedError
from server.core.stack import AdapterStack, AdapterVersion

BASE_WORD = "base"
"""In a list of adapter patterns: the base model alone."""


class Right(Enum):
    """What a key may do. None includes another."""

    INFER = "infer"
    LOAD = "load"
    ADMIN = "admin"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Caller:
    """One key's owner. `adapters` are shell patterns over names, or over `name@version`.

    `weight` is its share of the machine relative to others. The rates are None for no limit.
    """

    key_id: str
    name: str
    adapters: tuple[str, ...] = (BASE_WORD, "*")
    rights: frozenset[Right] = frozenset(Right)
    weight: float = 1.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def may_use_base(self) -> bool:
        """Whether the base model may answer alone."""
        return BASE_WORD in self.adapters

    def may_see(self, name: str) -> bool:
        """Whether some version of the adapter `name` may be used."""
        return any(fnmatchcase(name, pattern.partition("@")[0]) for pattern in self._patterns)

    def may_use(self, adapter: AdapterVersion) -> bool:
        """Whether this very version may be used."""
        return any(
            fnmatchcase(adapter.label if "@" in pattern else adapter.name, pattern)
            for pattern in self._patterns
        )

    def check_name(self, name: str) -> None:
        """Raises `PermissionDeniedError` unless `may_see(name)`, whether or not it exists."""
        if not self.may_see(name):
            raise PermissionDeniedError(
                f"this key may not use the adapter {name}; GET /v1/models lists what it may use",
                "model",
            )

    def check_base(self) -> None:
        """Raises `PermissionDeniedError` unless the base may answer alone."""
        if not self.may_use_base:
            raise PermissionDeniedError(
                "this key may not use the base model alone; GET /v1/models lists what it may use",
                "model",
            )

    def check_stack(self, stack: AdapterStack) -> None:
        """Raises `PermissionDeniedError` for the first member that isn't allowed."""
        if not stack.members:
            self.check_base()
        for member in stack.members:
            self.check_name(member.adapter.name)
            if not self.may_use(member.adapter):
                raise PermissionDeniedError(
                    f"this key may not use {member.adapter.label}; its patterns allow other "
                    "versions of it",
                    "model",
                )

    @property
    def _patterns(self) -> Iterator[str]:
        return (pattern for pattern in self.adapters if pattern != BASE_WORD)


ANYONE = Caller("", "anyone")
"""Who asks where no keys are required."""

NOBODY = Caller("", "nobody", adapters=(), rights=frozenset())
"""Who asks where keys are required and none was checked."""


class CurrentCaller:
    """The caller of the request that the running task belongs to.

    It follows tasks and threads that a request starts. Outside of requests it is `default`.
    """

    def __init__(self, default: Caller) -> None:
        self._variable: ContextVar[Caller] = ContextVar("caller", default=default)

    def get(self) -> Caller:
        """Who asks."""
        return self._variable.get()

    @contextmanager
    def set(self, caller: Caller) -> Iterator[None]:
        """Let `caller` be the one who asks, here and in what is started from here."""
        token = self._variable.set(caller)
        try:
            yield
        finally:
            self._variable.reset(token)
