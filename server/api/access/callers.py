"""Who asks: the key behind a request, and what it may do."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase

from adapters.names import NAME_PATTERN
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

    A pattern without a version, or with `@*`, covers a name as a whole; any other covers exactly
    the versions that it matches, whatever is done with them.

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

    @property
    def covers_everything(self) -> bool:
        """Whether every version of every adapter may be used, those to come included."""
        return any(set(name) == {"*"} and is_whole for name, _, is_whole in self._patterns)

    def covers(self, name: str) -> bool:
        """Whether every version of `name` may be used, those to come included."""
        return any(
            is_whole and fnmatchcase(name, pattern) for pattern, _, is_whole in self._patterns
        )

    def may_see(self, name: str) -> bool:
        """Whether some version of the adapter `name` may be used."""
        return any(fnmatchcase(name, pattern) for pattern, _, _ in self._patterns)

    def may_use_version(self, name: str, version: int | str) -> bool:
        """Whether this very version may be used, be it there or not."""
        return any(
            fnmatchcase(name, pattern) and fnmatchcase(str(version), versions)
            for pattern, versions, _ in self._patterns
        )

    def may_use(self, adapter: AdapterVersion) -> bool:
        """Whether this very version may be used."""
        return self.may_use_version(adapter.name, adapter.version)

    def may_reach(self, reference: str) -> bool:
        """Whether what `reference` names is the key's: a version, or a name with all its versions.

        What belongs to no adapter (its name isn't one) is nobody's but a key's for everything.
        """
        name, at, version = reference.partition("@")
        if NAME_PATTERN.fullmatch(name) is None:
            return self.covers_everything
        return self.may_use_version(name, version) if at else self.covers(name)

    def check_base(self) -> None:
        """Raises `PermissionDeniedError` unless the base may answer alone."""
        if not self.may_use_base:
            raise PermissionDeniedError(
                "this key may not use the base model alone; GET /v1/models lists what it may use",
                "model",
            )

    def check_name(self, name: str) -> None:
        """Raises `PermissionDeniedError` unless `may_see(name)`, whether or not it exists."""
        if not self.may_see(name):
            raise refusal(name)

    def check_reference(self, reference: str) -> None:
        """Raises `PermissionDeniedError` unless `may_reach(reference)`, whether or not it exists.

        For whatever concerns a version, or a name as a whole: what it means, and what it will.
        """
        if self.may_reach(reference):
            return
        name, at, _ = reference.partition("@")
        if at or not self.may_see(name):
            raise refusal(reference)
        raise PermissionDeniedError(
            f"this key may use some versions of {name}, and this concerns the whole name: name a "
            f"version, or use a key whose pattern covers them all, as {name} or {name}@* do",
            "model",
        )

    def check_stack(self, stack: AdapterStack) -> None:
        """Raises `PermissionDeniedError` for the first member that isn't allowed."""
        if not stack.members:
            self.check_base()
        for member in stack.members:
            if not self.may_use(member.adapter):
                raise refusal(member.adapter.label)

    @property
    def _patterns(self) -> Iterator[tuple[str, str, bool]]:
        """Of each pattern those for name and version, and whether the latter takes any version."""
        for pattern in self.adapters:
            if pattern != BASE_WORD:
                name, at, version = pattern.partition("@")
                yield name, version if at else "*", not at or set(version) == {"*"}


def refusal(reference: str) -> PermissionDeniedError:
    """The one answer for what a key's patterns don't match, whether or not it exists."""
    return PermissionDeniedError(
        f"this key may not use the adapter {reference}; GET /v1/models lists what it may use",
        "model",
    )


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
