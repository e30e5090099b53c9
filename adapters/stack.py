"""Stack expressions: `sql:0.7+polite@2:-0.3`, an exact weighted sum of adapters' deltas."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from adapters.errors import InvalidStackError
from adapters.names import AdapterRef, parse_ref

MAX_TERMS = 32
_MAX_EXPRESSION_LENGTH = 8192
# The scale is matched as a number, so that the '+' of an exponent (1e+3) doesn't end the term.
_TERM = re.compile(
    r"(?P<ref>[^:+]*)(?::(?P<scale>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))?(?=\+|$)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class StackTerm:
    """One adapter and the factor of its delta. Raises `InvalidStackError` for NaN or infinity."""

    ref: AdapterRef
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise InvalidStackError(f"the scale of {self.ref} is {self.scale}; it must be finite")

    def __str__(self) -> str:
        if self.scale == 1.0:
            return str(self.ref)
        # repr gives the shortest text that reads back as the same float.
        return f"{self.ref}:{repr(float(self.scale)).removesuffix('.0')}"


def parse_stack(text: str) -> tuple[StackTerm, ...]:
    """The terms of an expression, in its order; a missing scale is 1.

    Raises `InvalidStackError` when the expression is empty, malformed, too long, or names an
    adapter twice, and `InvalidNameError` for a bad name in it.
    """
    if len(text) > _MAX_EXPRESSION_LENGTH:
        raise InvalidStackError(
            f"the stack expression has {len(text)} characters; at most {_MAX_EXPRESSION_LENGTH}"
        )
    terms: list[StackTerm] = []
    position = 0
    while True:
        match = _TERM.match(text, position)
        if match is None or not match["ref"]:
            raise InvalidStackError(_malformed(text, position))
        terms.append(StackTerm(parse_ref(match["ref"]), float(match["scale"] or 1.0)))
        position = match.end()
        if position == len(text):
            break
        position += 1
    check_stack(terms)
    return tuple(terms)


def check_stack(terms: Iterable[StackTerm]) -> None:
    """Raises `InvalidStackError` for too many terms or an adapter named twice.

    `sql+sql@3` counts as twice, because `sql` may mean version 3; `sql@2+sql@3` doesn't.
    """
    versions: dict[str, set[int | None]] = {}
    num_terms = 0
    for term in terms:
        num_terms += 1
        seen = versions.setdefault(term.ref.name, set())
        if term.ref.version in seen or (seen and (term.ref.version is None or None in seen)):
            raise InvalidStackError(
                f"adapter {term.ref.name} is named twice in the stack: add its scales up and name "
                "it once, or give two different versions"
            )
        seen.add(term.ref.version)
    if num_terms > MAX_TERMS:
        raise InvalidStackError(f"the stack has {num_terms} adapters; at most {MAX_TERMS}")


def format_stack(terms: Iterable[StackTerm]) -> str:
    """The expression that `parse_stack` reads back as the same terms; scales of 1 are left out."""
    return "+".join(str(term) for term in terms)


def _malformed(text: str, position: int) -> str:
    part = text[position : position + 60]
    where = f"at {part!r}" if part else "at its end"
    return (
        f"the stack expression {text[:120]!r} is malformed {where}: write NAME, NAME@VERSION or "
        "NAME:SCALE with a finite decimal scale, joined by '+', as in sql:0.7+polite@2:-0.3"
    )
