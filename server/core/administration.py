"""What an operator asks about adapters and does to them: reports, orders, and their Protocols."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from server.core.ports import HostAdapter


class Tier(Enum):
    """The fastest place where an adapter's values are now."""

    DISK = "disk"
    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class VersionReport:
    """One version. `weight` is the share of its name's requests that it gets; 0 for none.

    `size_bytes` is the weights file's, `host_bytes` what it takes in host memory now. `mismatches`
    say how it was made for another base than the one served. `pinned_in` is the tier that it can't
    be evicted from. `has_own_template` where the operator allowed its chat template, and
    `template_note` says if it was trained with another than the base's and isn't.
    """

    version: int
    digest: str
    rank: int
    method: str
    size_bytes: int
    created: int
    root: str
    weight: float
    tier: Tier
    host_bytes: int
    pinned_in: Tier | None = None
    mismatches: tuple[str, ...] = ()
    has_own_template: bool = False
    template_note: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """One name. `current` is what the name alone mostly means, None when it points at nothing.

    `versions` are those it points at, or all of them where details were asked for or it points at
    nothing. `problem` and `remedy` say how it doesn't mean what its alias says, where that is so.
    """

    name: str
    current: int | None
    versions: tuple[VersionReport, ...]
    is_loaded: bool = True
    problem: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterDetail:
    """All about one name, with the manifest and modules of one version of it.

    `matched_modules` are those of the base that it changes; `unmatched_modules` those that the base
    doesn't have. `problems` say why the version can't be served, where it can't.
    """

    report: AdapterReport
    version: int
    manifest: Mapping[str, Any]
    matched_modules: tuple[str, ...]
    unmatched_modules: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MergeOrder:
    """Make `name`'s next version out of others.

    `parents` are (reference, weight); `rank`, `density` and `seed` are for the methods that have
    them, None for their defaults.
    """

    name: str
    parents: tuple[tuple[str, float], ...]
    method: str
    rank: int | None = None
    density: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What came of a merge. `error` is relative to the exact weighted sum (Frobenius norm).

    `parents` are (label, digest, weight).
    """

    label: str
    digest: str
    rank: int
    error: float
    parents: tuple[tuple[str, str, float], ...] = ()


class AdapterMerger(Protocol):
    """Merges outside of the serving process."""

    async def merge(self, order: MergeOrder) -> MergeResult:
        """Publish the merged version. Raises `MergeFailedError` with the reason."""
        ...


class DeviceBank(Protocol):
    """The adapters on the device, as an operator reaches them."""

    @property
    def resident_adapters(self) -> Sequence[str]:
        """Digests of what is there now."""
        ...

    async def keep_adapter(self, adapter: HostAdapter) -> str | None:
        """Put it there and keep it; returns why not, where it can't be."""
        ...

    def let_adapters_go(self, digests: Collection[str]) -> None:
        """Let kept ones be evicted again."""
        ...


class AdapterAdministration(Protocol):
    """Looks after the adapters of a running server. Every `reference` is `sql` or `sql@3`."""

    async def reports(self) -> Sequence[AdapterReport]:
        """Every name, by name, those that point at nothing included; reads no disk."""
        ...

    async def describe(self, reference: str) -> AdapterDetail:
        """All about a name. Raises `AdapterUnavailableError`."""
        ...

    async def prefetch(self, reference: str) -> VersionReport:
        """Bring what it means now into host memory.

        Raises `AdapterUnavailableError`, `AdapterUnreadableError` or `AdapterTooLargeError`.
        """
        ...

    async def pin(self, reference: str, tier: Tier = Tier.HOST) -> VersionReport:
        """Bring it into host memory, or onto the device too, and keep it there.

        A pinned name follows its alias. Pinning again in another tier moves the pin. Raises as
        `prefetch` does, and `PinLimitError`.
        """
        ...

    async def unpin(self, reference: str) -> VersionReport:
        """Let it be evicted again. Raises `AdapterUnavailableError` for what isn't pinned."""
        ...

    async def set_alias(self, name: str, weights: Mapping[int, float]) -> AdapterReport:
        """Make `name` mean one version or several by weight. Raises `AdapterError`."""
        ...

    async def remove(self, reference: str) -> None:
        """Take a version, or a whole name, out of the store. Raises `AdapterError`."""
        ...

    async def merge(self, order: MergeOrder) -> MergeResult:
        """Publish a merged version. Raises `MergeFailedError` or `AdapterError`."""
        ...
