"""Where things are in a store, and which of them readers may see.

    DIR/<name>/<version>/   one published version: the PEFT folder and manifest.json
    DIR/<name>/alias.json   what the name alone means, and the highest version number used
    DIR/.staging/           versions being written or deleted; nothing in it is ever read
    DIR/.quarantine/        what doesn't read as a version (`adapters.store.quarantine`)
    DIR/.lock               locked by whoever changes the store
    DIR/.index.json         what others have read of it (`adapters.store.index`)
    DIR/.policy.json        how many versions are kept (`adapters.store.keep_policy`)
    DIR/.templates.json     which versions' chat templates are allowed
                            (`adapters.template_permissions`)
    DIR/.holds/             versions that running processes need (`adapters.store.version_holds`)

A publish that also moves the alias has one moment of truth, the replacement of `alias.json`: until
then its version carries the file `.publishing`, and readers pass over such a version unless the
alias points at it. A file in staging names the publish while it is under way.
"""

import os
from pathlib import Path

from adapters.errors import DocumentError
from adapters.format.bounded_json import read_json_object
from adapters.names import NAME_PATTERN, parse_version
from adapters.store.alias import Alias, read_alias_document
from adapters.store.keep_policy import POLICY_FILE

ALIAS_FILE = "alias.json"
TEMPLATES_FILE = ".templates.json"
PUBLISHING_MARK = ".publishing"
MAX_ALIAS_BYTES = 4096


class StoreLayout:
    """Paths and plain reads of a store. Holds no state and takes no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.staging = root / ".staging"
        self.quarantine = root / ".quarantine"
        self.lock = root / ".lock"
        self.index = root / ".index.json"
        self.policy = root / POLICY_FILE
        self.templates = root / TEMPLATES_FILE
        self.holds = root / ".holds"

    def name_folder(self, name: str) -> Path:
        return self.root / name

    def version_folder(self, name: str, version: int) -> Path:
        return self.root / f"{name}/{version}"

    def alias_file(self, name: str) -> Path:
        return self.root / f"{name}/{ALIAS_FILE}"

    def name_folders(self) -> list[str]:
        """Every entry of the root that could be a name, sorted; empty when there is no root."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(e.name for e in entries if NAME_PATTERN.fullmatch(e.name))
        except FileNotFoundError:
            return []

    def name_in(self, path: str) -> str | None:
        """The name that a path below the root belongs to; None for staging, locks and the like."""
        prefix = f"{self.root}/"
        if not path.startswith(prefix):
            return None
        name = path.removeprefix(prefix).partition("/")[0]
        return name if NAME_PATTERN.fullmatch(name) else None

    def version_folders(self, name: str) -> list[int]:
        """The number of every version folder, sorted, whether readers may see it or not."""
        try:
            with os.scandir(self.root / name) as entries:
                numbers = [parse_version(e.name) for e in entries if e.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(number for number in numbers if number is not None)

    def is_unfinished(self, name: str, version: int, alias: Alias) -> bool:
        """Whether a publish put the folder there but hasn't made it count."""
        if version in alias.versions:
            return False
        return os.path.lexists(f"{self.root}/{name}/{version}/{PUBLISHING_MARK}")

    def read_alias(self, name: str) -> Alias:
        """The name's alias; one that points at nothing when the file is missing or unreadable."""
        try:
            document = read_json_object(
                self.alias_file(name), max_bytes=MAX_ALIAS_BYTES, max_depth=2
            )
        except DocumentError:
            return Alias()
        return read_alias_document(document)
