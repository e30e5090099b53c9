"""A catalog in memory: `sql` at version 3, `polite` at version 1."""

from dataclasses import dataclass
from pathlib import Path

from adapters.errors import AdapterExistsError, AdapterNotFoundError, InspectionError
from server.core.errors import AdapterUnavailableError, RequestError
from server.core.stack import AdapterStack, AdapterVersion, StackMember


@dataclass(frozen=True)
class FakeEntry:
    name: str
    current: AdapterVersion
    created: int
    root: str


class FakeCatalog:
    """Implements `AdapterCatalog`. `load` takes any path below /adapters, but not /adapters/bad."""

    def __init__(self) -> None:
        self._current = {"sql": 3, "polite": 1}
        self.loaded: list[tuple[str, str, bool]] = []
        self.sticky_keys: list[str | None] = []
        self.told_warnings: tuple[str, ...] = ()

    def resolve(self, expression: str, sticky_key: str | None = None) -> AdapterStack:
        self.sticky_keys.append(sticky_key)
        return AdapterStack(tuple(self._member(term) for term in expression.split("+")))

    def warnings(self, stack: AdapterStack) -> tuple[str, ...]:
        return self.told_warnings

    def entry(self, reference: str) -> FakeEntry:
        version = self._member(reference).adapter
        root = f"{version.name}/{version.version}"
        return FakeEntry(version.name, version, 1_700_000_000, root)

    def list(self) -> list[FakeEntry]:
        return [
            FakeEntry(name, self._version(name, version), 1_700_000_000, f"{name}/{version}")
            for name, version in sorted(self._current.items())
        ]

    def owners(self, path: str) -> tuple[str, ...]:
        root, *inside = path.removeprefix("/").split("/")
        if root == "store" and len(inside) > 1:
            return (f"{inside[0]}@{inside[1]}",)
        return (inside[0],) if inside and inside[0] else ()

    def load(self, name: str, path: str, *, replace: bool) -> AdapterVersion:
        if name in self._current and not replace:
            raise AdapterExistsError(f"{name} is there")
        if not path.startswith("/adapters/"):
            raise AdapterNotFoundError(f"No adapter found for '{path}'.")
        if path == "/adapters/bad":
            raise InspectionError(f"{path} can't be served", ["rank 0", "no tensors"])
        self.loaded.append((name, path, replace))
        self._current[name] = self._current.get(name, 0) + 1
        return self._version(name, self._current[name])

    def unload(self, name: str) -> None:
        if self._current.pop(name, None) is None:
            raise AdapterNotFoundError(f"{name} is not there")

    def _member(self, term: str) -> StackMember:
        ref, _, scale = term.partition(":")
        name, _, version = ref.partition("@")
        try:
            factor = float(scale) if scale else 1.0
        except ValueError as error:
            raise RequestError(f"'{scale}' is no scale", "model") from error
        if name not in self._current or int(version or 1) > self._current[name]:
            raise AdapterUnavailableError(f"The model '{ref}' does not exist")
        return StackMember(self._version(name, int(version or self._current[name])), factor)

    def _version(self, name: str, version: int) -> AdapterVersion:
        path = Path("/store", name, str(version))
        return AdapterVersion(name, version, f"sha256:{name}{version}", 8, path)
