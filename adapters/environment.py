"""The `SWITCHYARD_*` variables: which there are, and what to say of one that isn't."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches

PREFIX = "SWITCHYARD_"
COMMAND_VARIABLES = frozenset({"API_KEY", "BASE", "CACHE", "RUNS", "SERVER", "STORE"})
"""What the commands of trainer and adapters read, without the prefix."""

_NEAR = 0.75


def unknown_variables(environment: Mapping[str, str], known: Collection[str]) -> list[str]:
    """A sentence for each variable with our prefix that isn't in `known` (without the prefix)."""
    names = sorted(name for name in environment if name.upper().startswith(PREFIX))
    unknown = [n for n in names if not n.startswith(PREFIX) or n.removeprefix(PREFIX) not in known]
    return [
        f"{name}: there is no such variable{did_you_mean(name, known, PREFIX)}" for name in unknown
    ]


def misspelt_variables(environment: Mapping[str, str]) -> list[str]:
    """The same for commands beside a server, whose many variables they needn't know.

    Only what comes near to a variable of theirs is a mistake.
    """
    return [
        problem
        for problem in unknown_variables(environment, COMMAND_VARIABLES)
        if "did you mean" in problem
    ]


def did_you_mean(name: str, known: Collection[str], prefix: str = "") -> str:
    """`; did you mean X?` with the nearest known name, or nothing when none is near."""
    bare = name.upper().removeprefix(prefix) if prefix else name
    near = get_close_matches(bare, sorted(known), n=1, cutoff=_NEAR)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
