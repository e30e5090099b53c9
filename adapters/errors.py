"""What can go wrong with adapters, as one tree.

AdapterError
├── InvalidNameError        a name or `name@version` that can't be one
├── InvalidAliasError       weights over versions that can't be
├── InvalidStackError       a stack expression that doesn't parse
├── AdapterNotFoundError    the store has no such name or version
├── AdapterExistsError      the name is taken already
├── InspectionError         a PEFT folder can't be served; lists every problem
├── TensorFileError         a safetensors file is malformed; lists every problem
├── ArchiveError            an archive isn't one, or holds what may not be extracted
├── DocumentError           a JSON file is too large, too deep, or no JSON
│   └── ManifestError       manifest.json is missing or wrong, or contradicts the folder
├── UnsoundError            a folder isn't, or is no longer, the version that was published
├── MergeError              adapters can't be merged as asked
├── FoldError               an adapter can't be folded into a LoRA, or not closely enough
├── StoreError              the store can't do this: what is asked contradicts its state
│   └── AdapterInUseError   a version that its name means can't be removed
└── BaseModelError          in `adapters.base.errors`: the base model can't be had

To add one: subclass the nearest parent and write the message for the person who reads it: the
value, the limit, the remedy.
"""

from collections.abc import Sequence

_MAX_PROBLEMS_SHOWN = 25
_MAX_PROBLEMS_OF_A_KIND = 12


class AdapterError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidNameError(AdapterError):
    """A name or reference that can't be one."""


class InvalidAliasError(AdapterError):
    """Weights over versions that can't be a name's meaning."""


class InvalidStackError(AdapterError):
    """A stack expression that doesn't parse."""


class AdapterNotFoundError(AdapterError):
    """No such adapter or version."""


class AdapterExistsError(AdapterError):
    """The name is taken."""


class _ProblemsError(AdapterError):
    """Carries every problem; its text shows the first of them, one a line."""

    def __init__(self, title: str, problems: Sequence[str]) -> None:
        self.title = title
        self.problems = tuple(problems)
        shown = [f"- {problem}" for problem in self.problems[:_MAX_PROBLEMS_SHOWN]]
        if len(self.problems) > len(shown):
            shown.append(f"- and {len(self.problems) - len(shown)} more")
        super().__init__("\n".join([title, *shown]))


def first_dozen(problems: Sequence[str]) -> list[str]:
    """Problems of one kind, cut short: a file can have one in each of its many parts."""
    rest = len(problems) - _MAX_PROBLEMS_OF_A_KIND
    return [*problems[:_MAX_PROBLEMS_OF_A_KIND], *([f"and {rest} more like these"] * (rest > 0))]


class InspectionError(_ProblemsError):
    """An adapter folder can't be served; `problems` holds all reasons (a dozen of each kind)."""


class TensorFileError(_ProblemsError):
    """A safetensors file is malformed; `problems` holds all reasons."""


class ArchiveError(AdapterError):
    """A tar file can't be imported or written."""


class DocumentError(AdapterError):
    """A JSON file can't be read."""


class ManifestError(DocumentError):
    """A manifest is missing or wrong."""


class UnsoundError(AdapterError):
    """The files of a version are incomplete, unreadable, or not those that were published."""


class MergeError(AdapterError):
    """These adapters can't be merged so."""


class FoldError(AdapterError):
    """This adapter can't be folded so."""


class StoreError(AdapterError):
    """The store refuses."""


class AdapterInUseError(StoreError):
    """The version is what its name means now."""
