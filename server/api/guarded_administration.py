"""The administration as one caller may use it."""

from collections.abc import Mapping, Sequence

from server.api.callers import CurrentCaller
from server.core.administration import (
    AdapterAdministration,
    AdapterDetail,
    AdapterReport,
    MergeOrder,
    MergeResult,
    Tier,
    VersionReport,
)


class GuardedAdministration:
    """Implements `AdapterAdministration` over another one, for whoever asks.

    A key reaches only the names that its patterns allow; whether an adapter exists is looked up
    after that.
    """

    def __init__(self, administration: AdapterAdministration, current: CurrentCaller) -> None:
        self._administration = administration
        self._current = current

    async def reports(self) -> Sequence[AdapterReport]:
        """What the caller may use."""
        caller = self._current.get()
        return [r for r in await self._administration.reports() if caller.may_see(r.name)]

    async def describe(self, reference: str) -> AdapterDetail:
        """See `AdapterAdministration.describe`."""
        return await self._administration.describe(self._checked(reference))

    async def prefetch(self, reference: str) -> VersionReport:
        """See `AdapterAdministration.prefetch`."""
        return await self._administration.prefetch(self._checked(reference))

    async def pin(self, reference: str, tier: Tier = Tier.HOST) -> VersionReport:
        """See `AdapterAdministration.pin`."""
        return await self._administration.pin(self._checked(reference), tier)

    async def unpin(self, reference: str) -> VersionReport:
        """See `AdapterAdministration.unpin`."""
        return await self._administration.unpin(self._checked(reference))

    async def set_alias(self, name: str, weights: Mapping[int, float]) -> AdapterReport:
        """See `AdapterAdministration.set_alias`."""
        return await self._administration.set_alias(self._checked(name), weights)

    async def remove(self, reference: str) -> None:
        """See `AdapterAdministration.remove`."""
        await self._administration.remove(self._checked(reference))

    async def merge(self, order: MergeOrder) -> MergeResult:
        """See `AdapterAdministration.merge`."""
        self._checked(order.name)
        for reference, _ in order.parents:
            self._checked(reference)
        return await self._administration.merge(order)

    def _checked(self, reference: str) -> str:
        """Raises `PermissionDeniedError` unless the caller may use the name."""
        self._current.get().check_name(reference.partition("@")[0])
        return reference
