"""One adapter name, as the store has it now."""

from collections.abc import Callable
from dataclasses import dataclass

from adapters.compatibility import ServedBase
from adapters.store.store import StoredAdapter
from server.core.stack import AdapterVersion

Targets = tuple[tuple[AdapterVersion, float], ...]


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """A `core.ports.CatalogEntry`. `targets` are the versions that the name means, by weight.

    `current` is the heaviest of them, and `created`, `root` and `method` are that one's.
    `mismatches` say how any of them was made for another base than the one served.
    """

    name: str
    targets: Targets
    current: AdapterVersion
    created: int
    root: str
    method: str
    mismatches: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        targets: tuple[tuple[StoredAdapter, float], ...],
        terms: "ServingTerms",
    ) -> "StoreEntry":
        """The entry of what a store says `name` points at; at least one version."""
        current = max(targets, key=lambda target: (target[1], -target[0].version))[0]
        mismatches = [p for stored, _ in targets for p in terms.served.mismatches(stored.lineage)]
        return cls(
            name=name,
            targets=tuple((terms.version(stored), weight) for stored, weight in targets),
            current=terms.version(current),
            created=current.created_unix_seconds,
            root=f"{name}/{current.version}",
            method=current.method,
            mismatches=tuple(dict.fromkeys(mismatches)),
        )

    @property
    def meaning(self) -> str:
        """`sql@3`, or `sql@3:0.9, sql@4:0.1` for a canary."""
        if len(self.targets) == 1:
            return self.current.label
        return ", ".join(f"{version.label}:{weight:g}" for version, weight in self.targets)


@dataclass(frozen=True, slots=True)
class ServingTerms:
    """On which base versions of a store are served, and which of their templates are allowed."""

    served: ServedBase
    allows_template: Callable[[StoredAdapter], bool]

    def version(self, stored: StoredAdapter) -> AdapterVersion:
        """A stored version as the engine knows it, with the template that it is rendered with."""
        text = stored.lineage.template_text
        note = self.served.other_template(stored.lineage)
        is_allowed = note is not None and self.allows_template(stored)
        if note is not None and not is_allowed:
            note += (
                ". It is rendered with the base's, until `adapters allow-template "
                f"{stored.label}` lets it have its own"
            )
        return AdapterVersion(
            stored.name,
            stored.version,
            stored.digest,
            stored.rank,
            stored.path,
            stored.size_bytes,
            text if text is None or is_allowed else "",
            None if is_allowed else note,
        )
