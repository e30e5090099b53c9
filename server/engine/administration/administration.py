"""Looks after the adapters of a running server; implements `core.administration`."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from adapters.errors import AdapterError, InspectionError
from adapters.format.inspection import inspect_adapter
from adapters.names import AdapterRef, parse_ref
from adapters.store.store import StoredAdapter
from adapters.store.stray_name import StrayName
from server.core.administration import (
    AdapterDetail,
    AdapterMerger,
    AdapterReport,
    DeviceBank,
    MergeOrder,
    MergeResult,
    Tier,
    VersionReport,
)
from server.core.errors import AdapterUnavailableError, SwitchyardError
from server.core.stack import AdapterVersion
from server.engine.administration.adapter_pins import AdapterPins
from server.engine.hosting.catalog import CatalogChange, StoreCatalog
from server.engine.hosting.catalog_entry import StoreEntry
from server.engine.hosting.host_cache import HostAdapterCache

logger = logging.getLogger(__name__)


class Administration:
    """Belongs to the event loop of `cache`; what reads or writes the store runs in threads.

    Pins are of this server and end with it.
    """

    def __init__(
        self,
        catalog: StoreCatalog,
        cache: HostAdapterCache,
        *,
        bank: DeviceBank,
        merger: AdapterMerger,
    ) -> None:
        self._catalog = catalog
        self._store = catalog.store
        self._cache = cache
        self._bank = bank
        self._merger = merger
        self._changing = asyncio.Lock()
        self._pins = AdapterPins(cache, bank)
        self._held: frozenset[AdapterRef] = frozenset()
        self._following: set[asyncio.Task[None]] = set()

    def follow_catalog(self) -> None:
        """Let pinned names follow their aliases. Call it on the event loop, once."""
        loop = asyncio.get_running_loop()

        def follow(change: CatalogChange) -> None:
            refs = [r for r in self._pins.refs if r.version is None and r.name in change.names]
            if refs:
                loop.call_soon_threadsafe(self._start_moving, refs)

        self._catalog.subscribe(follow)

    async def reports(self) -> Sequence[AdapterReport]:
        """See `core.administration.AdapterAdministration.reports`."""
        on_device = frozenset(self._bank.resident_adapters)
        known = [self._report(entry, on_device) for entry in self._catalog.entries()]
        lost = [s for s in self._catalog.strays() if s.points_at_nothing]
        return sorted(
            [*known, *(self._stray_report(stray, on_device) for stray in lost)],
            key=lambda report: report.name,
        )

    async def describe(self, reference: str) -> AdapterDetail:
        """See `core.administration.AdapterAdministration.describe`."""
        ref = _ref(reference)
        versions = await asyncio.to_thread(self._versions, ref.name)
        weights = dict(self._store.alias(ref.name).targets)
        stray = self._store.stray(ref.name)
        wanted = ref.version or self._store.alias(ref.name).version
        if ref.version is None and stray is not None and stray.points_at_nothing and stray.sound:
            wanted = stray.sound[-1].version
        chosen = next((s for s in versions if s.version == wanted), None)
        if chosen is None:
            self._catalog.entry(reference)  # says why: unknown, unloaded, in quarantine
            raise AdapterUnavailableError(f"the name {ref.name} points at no version")
        on_device = frozenset(self._bank.resident_adapters)
        reports = tuple(
            self._stored_report(stored, weights.get(stored.version, 0.0), on_device)
            for stored in versions
        )
        report = AdapterReport(
            ref.name,
            None if ref.version is None and wanted not in weights else wanted,
            reports,
            is_loaded=not self._catalog.is_hidden(ref.name),
            problem=stray.problem if stray is not None else None,
            remedy=stray.remedy if stray is not None else None,
        )
        return await asyncio.to_thread(self._detail, report, chosen)

    async def prefetch(self, reference: str) -> VersionReport:
        """See `core.administration.AdapterAdministration.prefetch`."""
        entry = self._catalog.entry(reference)
        for version, _ in entry.targets:
            await self._cache.get(version)
        return self._of_current(entry)

    async def pin(self, reference: str, tier: Tier = Tier.HOST) -> VersionReport:
        """See `core.administration.AdapterAdministration.pin`."""
        entry = self._catalog.entry(reference)
        async with self._changing:
            await self._pins.pin(_ref(reference), _versions_of(entry), tier)
            await self._hold_pinned()
        return self._of_current(entry)

    async def unpin(self, reference: str) -> VersionReport:
        """See `core.administration.AdapterAdministration.unpin`."""
        ref = _ref(reference)
        async with self._changing:
            if not self._pins.unpin(ref):
                pinned = ", ".join(sorted(str(r) for r in self._pins.refs)) or "nothing"
                raise AdapterUnavailableError(f"{ref} isn't pinned; pinned is: {pinned}")
            await self._hold_pinned()
        return self._of_current(self._catalog.entry(reference))

    async def set_alias(self, name: str, weights: Mapping[int, float]) -> AdapterReport:
        """See `core.administration.AdapterAdministration.set_alias`."""
        async with self._changing:
            await asyncio.to_thread(self._store.set_alias, name, weights)
            await asyncio.to_thread(self._catalog.refresh, [name])
        return self._report(self._catalog.entry(name), frozenset(self._bank.resident_adapters))

    async def remove(self, reference: str) -> None:
        """See `core.administration.AdapterAdministration.remove`."""
        ref = parse_ref(reference)
        async with self._changing:
            await asyncio.to_thread(self._store.remove, ref)
            await asyncio.to_thread(self._catalog.refresh, [ref.name])
            for pinned in [p for p in self._pins.refs if p.name == ref.name]:
                if ref.version is None or pinned.version == ref.version:
                    self._pins.unpin(pinned)
            await self._hold_pinned()

    async def merge(self, order: MergeOrder) -> MergeResult:
        """See `core.administration.AdapterAdministration.merge`."""
        AdapterRef(order.name)
        for reference, _ in order.parents:
            self._catalog.entry(reference)
        result = await self._merger.merge(order)
        await asyncio.to_thread(self._catalog.refresh, [order.name])
        return result

    async def _hold_pinned(self) -> None:
        """Let no publisher prune a pinned version; what a name means, none prunes anyway."""
        pinned = frozenset(ref for ref in self._pins.refs if ref.version is not None)
        if pinned == self._held:
            return
        try:
            await asyncio.to_thread(self._store.hold, pinned)
            self._held = pinned
        except AdapterError as error:
            logger.warning("other publishers may prune what is pinned: %s", error)

    def _start_moving(self, refs: Sequence[AdapterRef]) -> None:
        task = asyncio.ensure_future(self._move_pins(refs))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _move_pins(self, refs: Sequence[AdapterRef]) -> None:
        """A pinned name means other versions now: pin those instead, or let the name go."""
        async with self._changing:
            for ref in refs:
                try:
                    await self._pins.move(ref, _versions_of(self._catalog.entry(ref.name)))
                except SwitchyardError as error:
                    self._pins.unpin(ref)
                    logger.warning("%s isn't pinned any more: %s", ref, error)

    def _versions(self, name: str) -> list[StoredAdapter]:
        found: list[StoredAdapter] = []
        for version in self._store.versions(name):
            try:
                found.append(self._store.get(AdapterRef(name, version)))
            except AdapterError:
                continue  # it went in the meantime
        return found

    def _detail(self, report: AdapterReport, stored: StoredAdapter) -> AdapterDetail:
        matched: tuple[str, ...] = ()
        unmatched: tuple[str, ...] = ()
        problems: tuple[str, ...] = ()
        try:
            inspection = inspect_adapter(stored.path, self._catalog.base_modules)
            matched, unmatched = inspection.matched, inspection.unmatched
        except InspectionError as error:
            problems = error.problems
        manifest = stored.manifest.model_dump(mode="json")
        return AdapterDetail(report, stored.version, manifest, matched, unmatched, problems)

    def _report(self, entry: StoreEntry, on_device: frozenset[str]) -> AdapterReport:
        reports = tuple(
            self._version_report(
                version,
                weight=weight,
                method=entry.method,
                created=entry.created,
                root=f"{version.name}/{version.version}",
                mismatches=entry.mismatches,
                on_device=on_device,
            )
            for version, weight in entry.targets
        )
        stray = self._catalog.stray(entry.name)
        return AdapterReport(
            entry.name,
            entry.current.version,
            reports,
            is_loaded=not self._catalog.is_hidden(entry.name),
            problem=stray.problem if stray is not None else None,
            remedy=stray.remedy if stray is not None else None,
        )

    def _stored_report(
        self, stored: StoredAdapter, weight: float, on_device: frozenset[str]
    ) -> VersionReport:
        return self._version_report(
            self._catalog.terms.version(stored),
            weight=weight,
            method=stored.method,
            created=stored.created_unix_seconds,
            root=f"{stored.name}/{stored.version}",
            mismatches=self._catalog.served.mismatches(stored.lineage),
            on_device=on_device,
        )

    def _stray_report(self, stray: StrayName, on_device: frozenset[str]) -> AdapterReport:
        """Of a name that points at nothing: the versions that can be named."""
        return AdapterReport(
            stray.name,
            None,
            tuple(self._stored_report(stored, 0.0, on_device) for stored in stray.sound),
            is_loaded=not self._catalog.is_hidden(stray.name),
            problem=stray.problem,
            remedy=stray.remedy,
        )

    def _of_current(self, entry: StoreEntry) -> VersionReport:
        report = self._report(entry, frozenset(self._bank.resident_adapters))
        return next(v for v in report.versions if v.version == entry.current.version)

    def _version_report(
        self,
        version: AdapterVersion,
        *,
        weight: float,
        method: str,
        created: int,
        root: str,
        mismatches: tuple[str, ...],
        on_device: frozenset[str],
    ) -> VersionReport:
        host_bytes = self._cache.size_of(version.digest)
        tier = Tier.HOST if host_bytes else Tier.DISK
        return VersionReport(
            version=version.version,
            digest=version.digest,
            rank=version.rank,
            method=method,
            size_bytes=version.size_bytes,
            created=created,
            root=root,
            weight=weight,
            tier=Tier.DEVICE if version.digest in on_device else tier,
            host_bytes=host_bytes,
            pinned_in=self._pins.tier_of(version.digest),
            mismatches=mismatches,
            has_own_template=bool(version.chat_template),
            template_note=version.template_note,
        )


def _versions_of(entry: StoreEntry) -> tuple[AdapterVersion, ...]:
    return tuple(version for version, _ in entry.targets)


def _ref(reference: str) -> AdapterRef:
    try:
        return parse_ref(reference)
    except AdapterError as error:
        raise AdapterUnavailableError(f"no adapter is called {reference}: {error}") from error
