"""How many versions of each name a store keeps: a file in it, which every publisher obeys."""

import json
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import DocumentError
from adapters.format.bounded_json import read_json_object

POLICY_FILE = ".policy.json"
MAX_POLICY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """`keep` newest versions of a name stay when another is published; None: all do."""

    keep: int | None = None

    def __post_init__(self) -> None:
        assert self.keep is None or self.keep >= 1

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps({"keep": self.keep}) + "\n"


def read_policy(path: Path) -> KeepPolicy:
    """The policy in a file; without one everything is kept.

    Raises `DocumentError` for a file that isn't one: a policy that is half understood would remove
    versions that somebody wanted.
    """
    if not path.exists():
        return KeepPolicy()
    document = read_json_object(path, max_bytes=MAX_POLICY_BYTES, max_depth=2)
    keep = document.get("keep")
    unknown = sorted(set(document) - {"keep"})
    if unknown:
        raise DocumentError(f"{path} has the unknown field {unknown[0]!r}; it has only keep")
    if keep is not None and (type(keep) is not int or keep < 1):
        raise DocumentError(f"{path}: keep is {keep!r}; it is a number from 1, or null")
    return KeepPolicy(keep)
