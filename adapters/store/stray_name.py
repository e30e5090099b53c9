"""A name that doesn't mean what it should: its alias points at versions that can't be had."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from adapters.names import AdapterRef, check_name
from adapters.store.alias import Alias
from adapters.store.layout import StoreLayout
from adapters.store.quarantine import Quarantine
from adapters.store.reader import StoreReader
from adapters.store.stored_adapter import StoredAdapter


@dataclass(frozen=True, slots=True)
class StrayName:
    """`faults` are version -> why, of the versions that `alias` points at and nobody can read.

    `sound` are the versions that read and can be named all the same (`sql@2`), ascending. An alias
    that points at no version at all (a staged import of a new name) has no faults and is a stray
    too.
    """

    name: str
    alias: Alias
    faults: Mapping[int, str]
    sound: tuple[StoredAdapter, ...]

    @property
    def points_at_nothing(self) -> bool:
        """Whether a request for the name alone can't be answered."""
        return len(self.faults) == len(self.alias.targets)

    @property
    def problem(self) -> str:
        """What is wrong, in one line."""
        if not self.alias.targets:
            return "points at no version"
        faults = [f"{AdapterRef(self.name, v)} {fault}" for v, fault in self.faults.items()]
        what = "points at nothing" if self.points_at_nothing else "misses a part of its canary"
        return f"{what}: {'; '.join(faults)}"

    @property
    def remedy(self) -> str:
        """What to do about it, in one line."""
        if not self.sound:
            return (
                "no version of it can be served: import one, or repair one and put it back "
                "(`adapters quarantine ls`)"
            )
        newest = self.sound[-1].version
        others = ", ".join(stored.label for stored in self.sound[-10:])
        verb = "rolls back" if self.alias.targets else "makes it live"
        return f"`adapters alias {self.name} {newest}` {verb}; there is: {others}"


class Strays:
    """Finds the strays of one store. Reads files anew only where they changed."""

    def __init__(self, layout: StoreLayout, reader: StoreReader, quarantine: Quarantine) -> None:
        self._layout = layout
        self._reader = reader
        self._quarantine = quarantine

    def all(self) -> tuple[StrayName, ...]:
        """Every name that doesn't mean what its alias says, by name."""
        found = (self.of(name) for name in self._reader.astray())
        return tuple(stray for stray in found if stray is not None)

    def of(self, name: str) -> StrayName | None:
        """How `name` doesn't mean what its alias says; None when it does, or isn't there."""
        check_name(name)
        alias, versions = self._reader.alias(name), self._reader.versions(name)
        missing = [version for version in alias.versions if version not in versions]
        if not missing and (alias.targets or not versions):
            return None
        sound = [self._reader.version(name, version) for version in versions]
        return StrayName(
            name,
            alias,
            {version: self._fault(AdapterRef(name, version)) for version in missing},
            tuple(stored for stored in sound if stored is not None),
        )

    def not_found(self, ref: AdapterRef) -> str:
        """Why there is no `ref`, and what there is."""
        versions = self._reader.versions(ref.name)
        if not versions and not self._reader.alias(ref.name).targets:
            close = get_close_matches(ref.name, self._reader.names(), n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            return f"the store {self._layout.root} has no adapter {ref.name}{hint}"
        stray = self.of(ref.name)
        if ref.version is None and stray is not None:
            return f"the name {ref.name} {stray.problem}. {stray.remedy}"
        there = ", ".join(str(version) for version in versions[-10:])
        return f"adapter {ref.name} has no version {ref.version}; there is: {there}"

    def quarantine_reason(self, ref: AdapterRef) -> str | None:
        """Why what `ref` names can't be had; None when it isn't in quarantine."""
        own = (ref.version,) if ref.version is not None else self._reader.alias(ref.name).versions
        for version in own:
            reason = self._reader.marked.get((ref.name, version))
            reason = reason or self._quarantine.reason_of(AdapterRef(ref.name, version))
            if reason is not None:
                return reason
        return None

    def _fault(self, ref: AdapterRef) -> str:
        assert ref.version is not None
        reason = self.quarantine_reason(ref)
        if reason is not None:
            lines = reason.splitlines() or ["no reason is noted"]
            return f"is in quarantine: {lines[0]}"
        if self._layout.version_folder(ref.name, ref.version).is_dir():
            return "is damaged (its manifest or weights can't be read)"
        return "is missing"
