"""Adapter names and references: `sql`, `sql@3`."""

import re
from dataclasses import dataclass

from adapters.errors import InvalidNameError

NAME_PATTERN = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
"""A name is also a folder name and a URL segment; use it with `fullmatch`."""

_VERSION_PATTERN = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """A name, and the version when one is meant; without one, what the name's alias points at.

    Raises `InvalidNameError` at birth.
    """

    name: str
    version: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.version is not None and parse_version(str(self.version)) is None:
            raise InvalidNameError(
                f"version {self.version} of adapter {self.name}: versions are 1 to 999999999"
            )

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def check_name(name: str) -> None:
    """Raises `InvalidNameError` unless `name` may be an adapter's name."""
    if NAME_PATTERN.fullmatch(name) is None:
        raise InvalidNameError(
            f"adapter name {_shown(name)} isn't one: 1 to 96 of the characters A-Z a-z 0-9 . _ - "
            "that begin with a letter or digit and hold no '..'"
        )


def parse_version(text: str) -> int | None:
    """The version number that `text` writes canonically (no sign, no leading zero), else None."""
    return int(text) if _VERSION_PATTERN.fullmatch(text) else None


def parse_ref(text: str) -> AdapterRef:
    """`sql` or `sql@3`. Raises `InvalidNameError`."""
    name, at, version_text = text.partition("@")
    check_name(name)
    if not at:
        return AdapterRef(name, None)
    version = parse_version(version_text)
    if version is None:
        raise InvalidNameError(
            f"{_shown(text)}: after '@' comes a version, 1 to 999999999; "
            f"write {name} alone for its current version"
        )
    return AdapterRef(name, version)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
