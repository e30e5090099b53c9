"""Names to adapter versions, as the store has them: what `core.ports.AdapterCatalog` asks for."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchfiles import awatch

from adapters.errors import AdapterError, AdapterExistsError, AdapterNotFoundError
from adapters.manifest import BaseLineage
from adapters.names import AdapterRef
from adapters.stack import parse_stack
from adapters.store import AdapterStore, StoredAdapter
from server.core.errors import AdapterUnavailableError, RequestError
from server.core.stack import AdapterStack, AdapterVersion, StackMember

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """One adapter name as the store has it now; a `core.ports.CatalogEntry`."""

    name: str
    current: AdapterVersion
    created: int
    root: str


class StoreCatalog:
    """Reads an `AdapterStore` and keeps up with it while `watch` runs.

    `base` is the served base: adapters trained on another one are not offered.
    `base_modules` (name -> (in, out)) is what imports are checked against; `allowed_roots` are the
    folders that `load` may read from.
    """

    def __init__(
        self,
        store: AdapterStore,
        *,
        base: BaseLineage,
        base_modules: Mapping[str, tuple[int, int]],
        allowed_roots: Sequence[Path],
    ) -> None:
        self._store = store
        self._base = base
        self._base_modules = base_modules
        self._allowed_roots = tuple(root.resolve() for root in allowed_roots)
        self._hidden: set[str] = set()
        self._entries: dict[str, StoreEntry] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the store again; says in the log what came, moved or went."""
        entries: dict[str, StoreEntry] = {}
        for stored in self._store.list():
            if self._mismatch(stored) is None:
                entries[stored.name] = self._entry(stored)
        for name in sorted(set(entries) | set(self._entries)):
            before, now = self._entries.get(name), entries.get(name)
            if now is None:
                logger.info("adapter %s is gone from the store", name)
            elif before is None or before.current.digest != now.current.digest:
                logger.info("adapter %s is now %s", name, now.current.label)
                self._hidden.discard(name)
        self._entries = entries

    async def watch(self) -> None:
        """Refresh whenever the store's files change. Runs until cancelled."""
        async for _changes in awatch(self._store.root, debounce=200, recursive=True):
            try:
                await asyncio.to_thread(self.refresh)
            except (AdapterError, OSError):
                logger.exception("the store can't be read; serving what is known")

    def resolve(self, expression: str) -> AdapterStack:
        """`sql`, `sql@3` or `sql:0.7+polite:0.3` to the versions that they mean now."""
        try:
            terms = parse_stack(expression)
        except AdapterError as error:
            raise RequestError(str(error), "model") from error
        return AdapterStack(
            tuple(StackMember(self._version(term.ref), term.scale) for term in terms)
        )

    def list(self) -> Sequence[StoreEntry]:
        """Every adapter that a request can name, by name."""
        return [e for name, e in sorted(self._entries.items()) if name not in self._hidden]

    def load(self, name: str, path: str, *, replace: bool) -> AdapterVersion:
        """Import a PEFT folder under an allowed root as the current version of `name`.

        Raises `AdapterExistsError` when the name is there and `replace` is false, and
        `AdapterNotFoundError` when the path isn't an adapter folder that may be read.
        """
        if name in self._entries and name not in self._hidden and not replace:
            raise AdapterExistsError(
                f"The lora adapter '{name}' has already been loaded. Unload it first, or set "
                "load_inplace to true"
            )
        folder = self._contained(path)
        stored = self._store.import_folder(
            name,
            folder,
            base_modules=self._base_modules,
            base=self._base,
            source=str(folder),
        )
        self._hidden.discard(name)
        self.refresh()
        return self._adapter_version(stored)

    def unload(self, name: str) -> None:
        """Stop offering `name`; its files stay in the store, and a new version offers it again."""
        if name not in self._entries or name in self._hidden:
            raise AdapterNotFoundError(f"The lora adapter '{name}' cannot be found.")
        self._hidden.add(name)

    def _version(self, ref: AdapterRef) -> AdapterVersion:
        if ref.name in self._hidden:
            raise AdapterUnavailableError(f"adapter {ref.name} is unloaded on this server")
        entry = self._entries.get(ref.name)
        if entry is not None and ref.version in (None, entry.current.version):
            return entry.current
        try:
            stored = self._store.get(ref)
        except AdapterNotFoundError as error:
            raise AdapterUnavailableError(
                f"no model or adapter is called {ref}; GET /v1/models lists what is there"
            ) from error
        except AdapterError as error:
            raise AdapterUnavailableError(f"{ref} can't be read: {error}") from error
        if (mismatch := self._mismatch(stored)) is not None:
            raise RequestError(mismatch, "model")
        return self._adapter_version(stored)

    def _mismatch(self, stored: StoredAdapter) -> str | None:
        base = stored.manifest.base
        if base is None or base.digest == self._base.digest:
            return None
        return (
            f"adapter {stored.label} was trained on the base {base.reference} ({base.digest}), "
            f"and this server has {self._base.reference} ({self._base.digest})"
        )

    def _contained(self, path: str) -> Path:
        folder = Path(path).resolve()
        if not any(folder.is_relative_to(root) for root in self._allowed_roots):
            allowed = ", ".join(str(root) for root in self._allowed_roots) or "none is configured"
            raise AdapterNotFoundError(
                f"No adapter found for '{path}': adapters are read only below {allowed} "
                "(setting adapter_roots)"
            )
        if not (folder / "adapter_config.json").is_file():
            raise AdapterNotFoundError(f"No adapter found for '{path}'.")
        return folder

    def _entry(self, stored: StoredAdapter) -> StoreEntry:
        return StoreEntry(
            name=stored.name,
            current=self._adapter_version(stored),
            created=int(stored.manifest.created_unix_seconds),
            root=str(stored.path.relative_to(self._store.root)),
        )

    def _adapter_version(self, stored: StoredAdapter) -> AdapterVersion:
        return AdapterVersion(
            stored.name, stored.version, stored.digest, stored.rank, stored.path, stored.size_bytes
        )
