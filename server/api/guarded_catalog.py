"""The catalog as one caller may see it."""

from collections.abc import Sequence

from adapters.errors import AdapterError
from adapters.stack import parse_stack
from server.api.callers import CurrentCaller
from server.core.errors import AdapterUnavailableError
from server.core.ports import AdapterCatalog, CatalogEntry
from server.core.stack import AdapterStack, AdapterVersion, StackMember


class GuardedCatalog:
    """Implements `AdapterCatalog` over another one, for whoever asks.

    Every route goes through here, so that none can forget the check. Whether an adapter exists is
    looked up only after it is known that the caller may use it.
    """

    def __init__(self, catalog: AdapterCatalog, current: CurrentCaller) -> None:
        self._catalog = catalog
        self._current = current

    def resolve(self, expression: str, sticky_key: str | None = None) -> AdapterStack:
        """See `AdapterCatalog.resolve`. Raises `PermissionDeniedError` besides.

        Without a key of the request's own, it is the caller's that a canary sticks to.
        """
        caller = self._current.get()
        try:
            terms = parse_stack(expression)
        except AdapterError:
            terms = ()  # The catalog says what is wrong with it.
        for term in terms:
            caller.check_name(term.ref.name)
        stack = self._catalog.resolve(expression, sticky_key or caller.key_id or None)
        caller.check_stack(stack)
        return stack

    def warnings(self, stack: AdapterStack) -> Sequence[str]:
        """See `AdapterCatalog.warnings`."""
        return self._catalog.warnings(stack)

    def entry(self, reference: str) -> CatalogEntry:
        """See `AdapterCatalog.entry`; what the caller may not use isn't there."""
        caller, name = self._current.get(), reference.partition("@")[0]
        if not caller.may_see(name):
            raise AdapterUnavailableError(
                f"The model '{reference}' does not exist. GET /v1/models lists what this server has"
            )
        entry = self._catalog.entry(reference)
        if "@" in reference:
            caller.check_stack(AdapterStack((StackMember(entry.current),)))
        return entry

    def list(self) -> Sequence[CatalogEntry]:
        """What the caller may use."""
        caller = self._current.get()
        seen = [e for e in self._catalog.list() if caller.may_see(e.current.name)]
        return [e for e in seen if "@" not in e.name or caller.may_use(e.current)]

    def load(self, name: str, path: str, *, replace: bool) -> AdapterVersion:
        """See `AdapterCatalog.load`. Raises `PermissionDeniedError` besides."""
        self._current.get().check_name(name)
        return self._catalog.load(name, path, replace=replace)

    def unload(self, name: str) -> None:
        """See `AdapterCatalog.unload`. Raises `PermissionDeniedError` besides."""
        self._current.get().check_name(name)
        self._catalog.unload(name)
