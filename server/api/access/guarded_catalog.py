"""The catalog as one caller may see it."""

from collections.abc import Sequence

from adapters.errors import AdapterError
from adapters.stack import parse_stack
from server.api.access.callers import Caller, CurrentCaller
from server.api.errors import PermissionDeniedError
from server.core.errors import AdapterUnavailableError, SwitchyardError
from server.core.ports import AdapterCatalog, CatalogEntry
from server.core.stack import AdapterStack, AdapterVersion


class GuardedCatalog:
    """Implements `AdapterCatalog` over another one, for whoever asks.

    Every route goes through here, so that none can forget the check. Whether something exists is
    looked up only after it is known that the caller may use it; where only the look-up can tell (a
    name alone, of which a key may use some versions), "not yours" and "not there" are one answer.
    """

    def __init__(self, catalog: AdapterCatalog, current: CurrentCaller) -> None:
        self._catalog = catalog
        self._current = current

    def resolve(self, expression: str, sticky_key: str | None = None) -> AdapterStack:
        """See `AdapterCatalog.resolve`. Raises `PermissionDeniedError` besides.

        Without a key of the request's own, it is the caller's that a canary sticks to.
        """
        caller = self._current.get()
        sticky_key = sticky_key or caller.key_id or None
        try:
            terms = parse_stack(expression)
        except AdapterError:
            terms = ()  # The catalog says what is wrong with it.
        for term in terms:
            if term.ref.version is None:
                caller.check_name(term.ref.name)
            else:
                caller.check_reference(str(term.ref))
        for term in terms:
            if term.ref.version is None and not caller.covers(term.ref.name):
                self._check_meaning(caller, term.ref.name, sticky_key)
        stack = self._catalog.resolve(expression, sticky_key)
        caller.check_stack(stack)
        return stack

    def _check_meaning(self, caller: Caller, name: str, sticky_key: str | None) -> None:
        """Raises one error unless `name` alone means a version that the caller may use."""
        try:
            [member] = self._catalog.resolve(name, sticky_key).members
            is_allowed = caller.may_use(member.adapter)
        except (SwitchyardError, AdapterError):
            is_allowed = False  # Why is another version's business.
        if not is_allowed:
            raise PermissionDeniedError(
                f"this key may use some versions of {name}, and the name alone means none of them "
                "now: name the version",
                "model",
            )

    def warnings(self, stack: AdapterStack) -> Sequence[str]:
        """See `AdapterCatalog.warnings`."""
        return self._catalog.warnings(stack)

    def entry(self, reference: str) -> CatalogEntry:
        """See `AdapterCatalog.entry`; what the caller may not use isn't there."""
        caller = self._current.get()
        name, at, _ = reference.partition("@")
        if caller.may_reach(reference):
            return self._catalog.entry(reference)
        if at or not caller.may_see(name):
            raise _absent(reference)
        try:
            entry = self._catalog.entry(reference)
        except (SwitchyardError, AdapterError) as error:
            raise _absent(reference) from error
        if not caller.may_use(entry.current):
            raise _absent(reference)
        return entry

    def list(self) -> Sequence[CatalogEntry]:
        """What the caller may use: names whose current version is one of its own."""
        caller = self._current.get()
        return [entry for entry in self._catalog.list() if caller.may_use(entry.current)]

    def owners(self, path: str) -> Sequence[str]:
        """See `AdapterCatalog.owners`."""
        return self._catalog.owners(path)

    def load(self, name: str, path: str, *, replace: bool) -> AdapterVersion:
        """See `AdapterCatalog.load`. Raises `PermissionDeniedError` besides.

        The new version gets a number that nobody knows yet, so the target is the whole name.
        """
        caller = self._current.get()
        caller.check_reference(name)
        self._check_source(caller, path)
        return self._catalog.load(name, path, replace=replace)

    def _check_source(self, caller: Caller, path: str) -> None:
        """Raises one error unless all that lies on the way to `path` is the caller's to read."""
        if caller.covers_everything:
            return
        owners = self._catalog.owners(path)
        if not owners or not all(caller.may_reach(owner) for owner in owners):
            raise PermissionDeniedError(
                f"this key may not read {path[:200]}: it may load the versions in the store that "
                "it may use, and below the folders of adapter_roots what lies in a folder called "
                "like an adapter of its own",
                "lora_path",
            )

    def unload(self, name: str) -> None:
        """See `AdapterCatalog.unload`. Raises `PermissionDeniedError` besides."""
        self._current.get().check_reference(name)
        self._catalog.unload(name)


def _absent(reference: str) -> AdapterUnavailableError:
    return AdapterUnavailableError(
        f"The model '{reference}' does not exist. GET /v1/models lists what this server has"
    )
