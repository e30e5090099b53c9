"""An administration that remembers what was asked of it: `sql`, also by the name `polite`."""

from collections.abc import Mapping, Sequence

from server.core.administration import (
    AdapterDetail,
    AdapterReport,
    MergeOrder,
    MergeResult,
    Tier,
    VersionReport,
)
from server.core.errors import AdapterUnavailableError


def version_report(
    version: int, weight: float = 1.0, *, pinned_in: Tier | None = None
) -> VersionReport:
    return VersionReport(
        version=version,
        digest=f"sha256:sql{version}",
        rank=8,
        method="lora",
        size_bytes=1000,
        created=1_700_000_000,
        root=f"sql/{version}",
        weight=weight,
        tier=Tier.HOST,
        host_bytes=800,
        pinned_in=pinned_in,
    )


class FakeAdministration:
    """Implements `AdapterAdministration`."""

    def __init__(self) -> None:
        self.weights: Mapping[int, float] = {3: 1.0}
        self.pinned: set[str] = set()
        self.removed: list[str] = []
        self.merged: list[MergeOrder] = []

    async def reports(self) -> Sequence[AdapterReport]:
        return [self._report()]

    async def describe(self, reference: str) -> AdapterDetail:
        self._check(reference)
        return AdapterDetail(self._report(), 3, {"name": "sql", "rank": 8}, ("q_proj",), ())

    async def prefetch(self, reference: str) -> VersionReport:
        self._check(reference)
        return version_report(3)

    async def pin(self, reference: str, tier: Tier = Tier.HOST) -> VersionReport:
        self._check(reference)
        self.pinned.add(reference)
        return version_report(3, pinned_in=tier)

    async def unpin(self, reference: str) -> VersionReport:
        if reference not in self.pinned:
            raise AdapterUnavailableError(f"{reference} isn't pinned; pinned is: nothing")
        self.pinned.remove(reference)
        return version_report(3)

    async def set_alias(self, name: str, weights: Mapping[int, float]) -> AdapterReport:
        self._check(name)
        self.weights = weights
        return self._report()

    async def remove(self, reference: str) -> None:
        self._check(reference)
        self.removed.append(reference)

    async def merge(self, order: MergeOrder) -> MergeResult:
        self.merged.append(order)
        parents = tuple((f"{name}@1", f"sha256:{name}", w) for name, w in order.parents)
        return MergeResult(f"{order.name}@1", "sha256:merged", 16, 0.125, parents)

    def _report(self) -> AdapterReport:
        versions = tuple(version_report(v, w) for v, w in sorted(self.weights.items()))
        return AdapterReport("sql", max(self.weights, key=lambda v: self.weights[v]), versions)

    def _check(self, reference: str) -> None:
        if reference.partition("@")[0] not in ("sql", "polite"):
            raise AdapterUnavailableError(f"no adapter is called {reference}")
