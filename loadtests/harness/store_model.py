"""What a store must hold after a journal of changes, and where it may stand after a kill."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.names import AdapterRef
from adapters.store.store import AdapterStore

Operation = dict[str, Any]
State = tuple[dict[str, dict[int, str]], dict[str, tuple[tuple[int, float], ...]]]
"""Name -> version -> digest, and name -> (version, weight) of its alias."""


@dataclass
class StoreModel:
    """A store as it should be. `merged` is the digest of the one merge that is made."""

    merged: str = ""
    versions: dict[str, dict[int, str]] = field(default_factory=dict)
    alias: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """What a reader finds."""
        return self.versions, self.alias

    def after(self, operation: Operation, digests: Sequence[str]) -> "StoreModel":
        """The state after `operation`; the same state where the store must refuse it."""
        new = StoreModel(
            self.merged,
            {name: dict(versions) for name, versions in self.versions.items()},
            dict(self.alias),
            dict(self.highest),
        )
        name, there = operation["name"], new.versions.get(operation["name"], {})
        pointed_at = {version for version, _ in new.alias.get(name, ())}
        match operation["op"]:
            case "publish" | "load" | "archive":
                new._add(name, digests[operation["folder"]], operation.get("set_alias", True))
            case "merge":
                new._add(name, self.merged, set_alias=True)
            case "alias":
                weights = {int(v): w for v, w in operation["weights"].items()}
                if set(weights) <= set(there):
                    new.alias[name] = tuple(sorted(weights.items()))
            case "rm" if operation["version"] is None or set(there) == {operation["version"]}:
                new.versions.pop(name, None)
                new.alias.pop(name, None)
                new.highest.pop(name, None)
            case "rm":
                version = operation["version"]
                if version in there and version not in pointed_at:
                    del there[version]
        return new

    def _add(self, name: str, digest: str, set_alias: bool) -> None:
        version = self.highest[name] = self.highest.get(name, 0) + 1
        self.versions.setdefault(name, {})[version] = digest
        if set_alias:
            self.alias[name] = ((version, 1.0),)


def state_of(store: AdapterStore) -> State:
    """What a store holds now."""
    versions = {
        name: {v: store.get(AdapterRef(name, v)).digest for v in store.versions(name)}
        for name in store.names()
    }
    aliases = {name: store.alias(name).targets for name in versions}
    return versions, {name: targets for name, targets in aliases.items() if targets}
