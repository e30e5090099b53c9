"""The administration as one caller may use it."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from adapters.errors import AdapterNotFoundError
from server.api.access.callers import Caller, CurrentCaller
from server.core.administration import (
    AdapterAdministration,
    AdapterDetail,
    AdapterReport,
    MergeOrder,
    MergeResult,
    Tier,
    VersionReport,
)
from server.core.errors import AdapterUnavailableError, PinLimitError

_T = TypeVar("_T")


class GuardedAdministration:
    """Implements `AdapterAdministration` over another one, for whoever asks.

    A key administers exactly the versions that its patterns match; what concerns a name as a whole
    takes a pattern that covers all of it. Whether something exists is looked up after that, and
    what an answer or a refusal would tell of other adapters is left out.
    """

    def __init__(self, administration: AdapterAdministration, current: CurrentCaller) -> None:
        self._administration = administration
        self._current = current

    async def reports(self) -> Sequence[AdapterReport]:
        """What the caller may use, version by version."""
        caller = self._current.get()
        seen = [_seen(r, caller) for r in await self._administration.reports()]
        return [report for report in seen if report.versions]

    async def describe(self, reference: str) -> AdapterDetail:
        """See `AdapterAdministration.describe`."""
        caller = self._checked(reference)
        detail = await self._hiding_names(reference, self._administration.describe(reference))
        return replace(
            detail,
            report=_seen(detail.report, caller),
            manifest=_seen_manifest(detail.manifest, caller),
        )

    async def prefetch(self, reference: str) -> VersionReport:
        """See `AdapterAdministration.prefetch`."""
        self._checked(reference)
        return await self._hiding_names(reference, self._administration.prefetch(reference))

    async def pin(self, reference: str, tier: Tier = Tier.HOST) -> VersionReport:
        """See `AdapterAdministration.pin`."""
        caller = self._checked(reference)
        try:
            return await self._hiding_names(reference, self._administration.pin(reference, tier))
        except PinLimitError as error:
            if caller.covers_everything:
                raise
            raise PinLimitError(
                f"{reference} can't be pinned: pins have no room for it now. Unpin another; the "
                "settings host_cache_gib and adapter_bank_pages say how much room there is",
                "name",
            ) from error

    async def unpin(self, reference: str) -> VersionReport:
        """See `AdapterAdministration.unpin`."""
        caller = self._checked(reference)
        try:
            return await self._administration.unpin(reference)
        except AdapterUnavailableError as error:
            if caller.covers_everything:
                raise
            raise AdapterUnavailableError(f"{reference} isn't pinned") from error

    async def set_alias(self, name: str, weights: Mapping[int, float]) -> AdapterReport:
        """See `AdapterAdministration.set_alias`."""
        self._checked(name)
        return await self._hiding_names(name, self._administration.set_alias(name, weights))

    async def remove(self, reference: str) -> None:
        """See `AdapterAdministration.remove`.

        To remove what a name means, be it the last version or not, changes the name.
        """
        caller = self._checked(reference)
        name = reference.partition("@")[0]
        if not caller.covers(name):
            report = (await self.describe(reference)).report
            version = reference.partition("@")[2]
            if any(v.weight > 0 for v in report.versions if str(v.version) == version):
                caller.check_reference(name)
        await self._hiding_names(reference, self._administration.remove(reference))

    async def merge(self, order: MergeOrder) -> MergeResult:
        """See `AdapterAdministration.merge`."""
        self._checked(order.name)
        for reference, _ in order.parents:
            self._checked(reference)
        return await self._hiding_names(order.name, self._administration.merge(order))

    def _checked(self, reference: str) -> Caller:
        """Who asks. Raises `PermissionDeniedError` unless all that it names is theirs."""
        caller = self._current.get()
        caller.check_reference(reference)
        return caller

    async def _hiding_names(self, reference: str, doing: Awaitable[_T]) -> _T:
        """What `doing` gives. A store that looks for it in vain names others that are like it."""
        try:
            return await doing
        except AdapterNotFoundError as error:
            if self._current.get().covers_everything:
                raise
            raise AdapterNotFoundError(
                f"the store has no {reference}, or not the version of it that is asked for"
            ) from error


def _seen(report: AdapterReport, caller: Caller) -> AdapterReport:
    """A report without the versions that the caller may not use."""
    name, current = report.name, report.current
    return replace(
        report,
        current=current if current is not None and caller.may_use_version(name, current) else None,
        versions=tuple(v for v in report.versions if caller.may_use_version(name, v.version)),
    )


def _seen_manifest(manifest: Mapping[str, Any], caller: Caller) -> Mapping[str, Any]:
    """A manifest that names no other adapters than the caller's, nor the folder that it was in."""
    if caller.covers_everything:
        return manifest
    told = dict(manifest)
    if "source" in told:
        told["source"] = None
    if told.get("parent") is not None and not caller.may_reach(told["parent"]):
        told["parent"] = None
    if "parents" in told:
        told["parents"] = [p for p in told["parents"] if caller.may_reach(p["label"])]
    return told
