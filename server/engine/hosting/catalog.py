"""Names to adapter versions, as the store has them: what `core.ports.AdapterCatalog` asks for."""

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from watchfiles import Change, awatch

from adapters.compatibility import ServedBase
from adapters.errors import AdapterError, AdapterExistsError, AdapterNotFoundError
from adapters.format.inspection import inspect_adapter
from adapters.names import AdapterRef, parse_ref
from adapters.stack import parse_stack
from adapters.store.alias import choose_target
from adapters.store.alias_notes import publish_note
from adapters.store.store import AdapterStore, StoredAdapter
from adapters.store.stray_name import StrayName
from adapters.template_check import BaseTemplate
from server.core.errors import (
    AdapterTooLargeError,
    AdapterUnavailableError,
    AdapterUnreadableError,
    RequestError,
)
from server.core.stack import AdapterStack, AdapterVersion, StackMember
from server.engine.hosting.adapter_sources import AdapterSources
from server.engine.hosting.catalog_entry import ServingTerms, StoreEntry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """What a refresh found: names that came, moved or went, and digests that no name means now.

    `meant` are the digests that the names mean now.
    """

    names: frozenset[str]
    digests: frozenset[str]
    meant: frozenset[str] = frozenset()


Listener = Callable[[CatalogChange], None]


class StoreCatalog:
    """Reads an `AdapterStore` and keeps up with it while `watch` runs.

    Nothing is read before it is asked for, or `watch` begins: a thousand adapters make no start
    slower.

    `served` is the served base: adapters made for another one are not offered, unless
    `allow_mismatch`, and then `warnings` says so. `base_modules` (name -> (in, out)) is what
    imports are checked against; `allowed_roots` are the folders that `load` may read from;
    `base_template` is the base's, for imports; `max_rank` is the largest rank that the device bank
    takes. Threads may share it.
    """

    def __init__(
        self,
        store: AdapterStore,
        *,
        served: ServedBase,
        base_modules: Mapping[str, tuple[int, int]],
        base_template: BaseTemplate | None = None,
        allowed_roots: Sequence[Path],
        max_rank: int | None = None,
        allow_mismatch: bool = False,
    ) -> None:
        self._store = store
        self._terms = ServingTerms(served, store.allows_template)
        self._base_template = base_template
        self._base_modules = base_modules
        self._sources = AdapterSources(store.root, allowed_roots)
        self._max_rank = max_rank
        self._allow_mismatch = allow_mismatch
        self._hidden: set[str] = set()
        self._entries: dict[str, StoreEntry] = {}
        self._strays: dict[str, StrayName] = {}
        self._listeners: list[Listener] = []
        self._refreshing = threading.Lock()
        self._is_complete = False

    @property
    def store(self) -> AdapterStore:
        return self._store

    @property
    def served(self) -> ServedBase:
        return self._terms.served

    @property
    def terms(self) -> ServingTerms:
        """What makes a stored version one that is served."""
        return self._terms

    @property
    def base_modules(self) -> Mapping[str, tuple[int, int]]:
        """What adapters are checked against: module name -> (in_features, out_features)."""
        return self._base_modules

    def subscribe(self, listener: Listener) -> None:
        """`listener` is told of changes, on the refreshing thread."""
        self._listeners.append(listener)

    def refresh(self, names: Iterable[str] | None = None) -> None:
        """Read the store again, or only `names` of it; says in the log what changed."""
        with self._refreshing:
            is_first = names is None and not self._is_complete
            if names is None:
                found = self._store.targets_by_name()
                touched = set(found) | set(self._entries)
            else:
                touched = set(names)
                found = {name: self._store.targets(name) for name in touched}
            for name in touched:
                self._look_astray(name, found.get(name, ()))
            before = _digests(self._entries[n] for n in touched if n in self._entries)
            changed = {n for n in touched if self._update(n, found.get(n, ()), is_first)}
            change = CatalogChange(
                names=frozenset(changed),
                digests=before - _digests(self._entries.values()) if changed else frozenset(),
                meant=_digests(self._entries[n] for n in changed if n in self._entries),
            )
            self._is_complete |= names is None
        if is_first:
            logger.info("%d adapters in the store %s", len(self._entries), self._store.root)
        for listener in self._listeners if changed else ():
            listener(change)

    async def watch(self) -> None:
        """Read the store, then refresh what changes in its files. Runs until cancelled."""
        await self._refresh_in_thread(None)
        changes = awatch(
            self._store.root, debounce=200, recursive=True, watch_filter=self._is_of_a_name
        )
        async for found in changes:
            names = {name for _, path in found if (name := self._store.name_in(path)) is not None}
            all_names = any(self._store.changes_templates(path) for _, path in found)
            await self._refresh_in_thread(None if all_names else names)

    def resolve(self, expression: str, sticky_key: str | None = None) -> AdapterStack:
        """`sql`, `sql@3` or `sql:0.7+polite:0.3` to the versions that they mean now."""
        try:
            terms = parse_stack(expression)
        except AdapterError as error:
            raise RequestError(str(error), "model") from error
        key = sticky_key if sticky_key is not None else secrets.token_hex(8)
        return AdapterStack(
            tuple(StackMember(self._version(term.ref, key), term.scale) for term in terms)
        )

    def warnings(self, stack: AdapterStack) -> Sequence[str]:
        """How members aren't served as they were made: templates, and mismatches if allowed."""
        found = tuple(
            f"adapter {m.adapter.label}: {m.adapter.template_note}"
            for m in stack.members
            if m.adapter.template_note is not None
        )
        if not self._allow_mismatch:
            return found
        for member in stack.members:
            ref = AdapterRef(member.adapter.name, member.adapter.version)
            try:
                made_for = self._store.get(ref).lineage
            except AdapterError:
                continue  # it went since it was resolved
            mismatches = self._terms.served.mismatches(made_for)
            found += tuple(f"adapter {member.adapter.label}: {problem}" for problem in mismatches)
        return found

    def list(self) -> Sequence[StoreEntry]:
        """Every adapter that a request can name, by name.

        Of a name that points at nothing, each version that can be named: `sql@2`.
        """
        entries = [*self.entries(), *(e for s in self._lost() for e in self._versions_of(s))]
        offered = [e for e in entries if e.current.name not in self._hidden and self._serves(e)]
        return sorted(offered, key=lambda e: (e.current.name, e.current.version))

    def strays(self) -> Sequence[StrayName]:
        """Every name that doesn't mean what its alias says, by name."""
        if not self._is_complete:
            self.refresh()
        return sorted(self._strays.values(), key=lambda s: s.name)

    def stray(self, name: str) -> StrayName | None:
        """How `name` doesn't mean what its alias says, as of the last refresh."""
        return self._strays.get(name)

    def entry(self, reference: str) -> StoreEntry:
        """`sql` or `sql@3`. Raises `AdapterUnavailableError`."""
        try:
            ref = parse_ref(reference)
        except AdapterError as error:
            raise AdapterUnavailableError(_unknown(reference)) from error
        entry = self._known(ref.name)
        if ref.version is None:
            if entry is None and ref.name not in self._hidden:
                self._stored(ref)  # says why: unknown, or astray
            if entry is None or ref.name in self._hidden:
                raise AdapterUnavailableError(_unknown(reference))
            return entry
        return StoreEntry.of(ref.name, ((self._stored(ref), 1.0),), self._terms)

    def entries(self) -> Sequence[StoreEntry]:
        """Every name that points at a version, offered or not, by name."""
        if not self._is_complete:
            self.refresh()
        return sorted(self._entries.values(), key=lambda e: e.name)

    def is_hidden(self, name: str) -> bool:
        """Whether `name` was unloaded."""
        return name in self._hidden

    def owners(self, path: str) -> Sequence[str]:
        """See `core.ports.AdapterCatalog.owners`."""
        return self._sources.owners(path)

    def load(self, name: str, path: str, *, replace: bool) -> AdapterVersion:
        """Import a PEFT folder under an allowed root as the current version of `name`.

        Raises `AdapterExistsError` when the name is there and `replace` is false,
        `AdapterNotFoundError` when the path isn't an adapter folder that may be read,
        `AdapterTooLargeError` when its rank is over the bank's, and what an import raises.
        """
        if self._known(name) is not None and name not in self._hidden and not replace:
            raise AdapterExistsError(
                f"The lora adapter '{name}' has already been loaded. Unload it first, or set "
                "load_inplace to true"
            )
        folder = self._sources.folder(path)
        self._check_rank(name, folder)
        before = self._store.alias(name)
        stored = self._store.import_folder(
            name,
            folder,
            base_modules=self._base_modules,
            base=self._terms.served.lineage,
            base_template=self._base_template,
            source=str(folder),
        )
        self._hidden.discard(name)
        self.refresh([name])
        if note := publish_note(stored, before, self._store.alias(name)):
            logger.warning("loaded %s; %s", stored.label, note.rstrip())
        return self._terms.version(stored)

    def unload(self, name: str) -> None:
        """Stop offering `name`; its files stay in the store, and a new version offers it again."""
        if self._known(name) is None or name in self._hidden:
            raise AdapterNotFoundError(f"The lora adapter '{name}' cannot be found.")
        self._hidden.add(name)

    def quarantine(self, ref: AdapterRef, reason: str) -> None:
        """Take a version out of the store's sight, and stop offering it. Raises `AdapterError`."""
        self._store.quarantine(ref, reason)
        self.refresh([ref.name])

    def _known(self, name: str) -> StoreEntry | None:
        """What `name` points at. Until all of the store is known, it is looked up there."""
        if name not in self._entries and not self._is_complete:
            self.refresh([name])
        return self._entries.get(name)

    async def _refresh_in_thread(self, names: Iterable[str] | None) -> None:
        try:
            await asyncio.to_thread(self.refresh, names)
        except (AdapterError, OSError):
            logger.exception("the store can't be read; serving what is known")

    def _update(
        self, name: str, targets: tuple[tuple[StoredAdapter, float], ...], is_first: bool
    ) -> bool:
        """Take over what `name` points at now; returns whether that is news."""
        before = self._entries.get(name)
        if not targets:
            if before is None:
                return False
            del self._entries[name]
            logger.info("adapter %s is gone from the store", name)
            return True
        now = StoreEntry.of(name, targets, self._terms)
        if before == now:
            return False
        self._entries[name] = now
        self._hidden.discard(name)
        if not is_first:
            logger.info("adapter %s is now %s", name, now.meaning)
        for version, _ in now.targets:
            if version.template_note is not None:
                logger.warning("adapter %s: %s", version.label, version.template_note)
        for problem in now.mismatches:
            verdict = "served all the same" if self._allow_mismatch else "not offered"
            logger.warning("adapter %s is %s: %s", now.current.label, verdict, problem)
        return True

    def _look_astray(self, name: str, targets: tuple[tuple[StoredAdapter, float], ...]) -> None:
        """Notice whether `name` means all that its alias says; the log tells what is new."""
        stray = None
        if len(targets) < max(1, len(self._store.alias(name).targets)):
            stray = self._store.stray(name)
        if stray is None:
            self._strays.pop(name, None)
            return
        before = self._strays.get(name)
        if before is None or before.problem != stray.problem:
            logger.warning("the name %s %s. %s", name, stray.problem, stray.remedy)
        self._strays[name] = stray

    def _lost(self) -> Sequence[StrayName]:
        return [stray for stray in self.strays() if stray.points_at_nothing]

    def _versions_of(self, stray: StrayName) -> Sequence[StoreEntry]:
        """An entry for each version that can be named, under that very name."""
        return [
            replace(StoreEntry.of(stray.name, ((stored, 1.0),), self._terms), name=stored.label)
            for stored in stray.sound
        ]

    def _serves(self, entry: StoreEntry) -> bool:
        return self._allow_mismatch or not entry.mismatches

    def _version(self, ref: AdapterRef, key: str) -> AdapterVersion:
        if ref.name in self._hidden:
            raise AdapterUnavailableError(f"adapter {ref.name} is unloaded on this server")
        entry = self._known(ref.name)
        if entry is not None and ref.version is None:
            weights = tuple((index, weight) for index, (_, weight) in enumerate(entry.targets))
            index, _ = choose_target(ref.name, weights, key)
            chosen = entry.targets[index][0]
            if self._serves(entry):
                return chosen
            ref = AdapterRef(ref.name, chosen.version)
        stored = self._stored(ref)
        mismatches = self._terms.served.mismatches(stored.lineage)
        if mismatches and not self._allow_mismatch:
            raise RequestError(
                f"adapter {stored.label} can't be served: {'; '.join(mismatches)}. The setting "
                "allow_mismatch serves it all the same",
                "model",
            )
        return self._terms.version(stored)

    def _stored(self, ref: AdapterRef) -> StoredAdapter:
        try:
            return self._store.get(ref)
        except AdapterNotFoundError as error:
            stray = self._store.stray(ref.name)
            if stray is not None and ref.version is None:
                message = f"adapter {ref.name} {stray.problem}. {stray.remedy}"
                if stray.alias.targets:
                    raise AdapterUnreadableError(message) from error
                raise AdapterUnavailableError(message) from error
            if stray is not None and ref.version is not None and ref.version in stray.faults:
                raise AdapterUnreadableError(
                    f"adapter {ref} {stray.faults[ref.version]}. {stray.remedy}"
                ) from error
            reason = self._store.quarantine_reason(ref)
            if reason is not None:
                raise AdapterUnreadableError(f"adapter {ref} is in quarantine: {reason}") from error
            raise AdapterUnavailableError(_unknown(str(ref))) from error
        except AdapterError as error:
            raise AdapterUnreadableError(f"{ref} can't be read: {error}") from error

    def _check_rank(self, name: str, folder: Path) -> None:
        if self._max_rank is None:
            return
        rank = inspect_adapter(folder, self._base_modules).rank
        if rank > self._max_rank:
            raise AdapterTooLargeError(
                f"adapter {name} has rank {rank}; this server takes up to {self._max_rank} "
                "(setting max_lora_rank)",
                "lora_path",
            )

    def _is_of_a_name(self, _change: Change, path: str) -> bool:
        return self._store.name_in(path) is not None or self._store.changes_templates(path)


def _digests(entries: Iterable[StoreEntry]) -> frozenset[str]:
    return frozenset(version.digest for entry in entries for version, _ in entry.targets)


def _unknown(reference: str) -> str:
    return f"no model or adapter is called {reference}; GET /v1/models lists what is there"
