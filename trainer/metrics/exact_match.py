"""How many answers say exactly the reference."""

import json
from collections.abc import Sequence


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """Percent of answers equal to their reference; JSON is compared as a value, not as text."""
    pairs = zip(answers, references, strict=True)
    return 100 * sum(_canonical(a) == _canonical(r) for a, r in pairs) / len(references)


def _canonical(text: str) -> str:
    stripped = " ".join(text.split())
    if not stripped.startswith(("{", "[")):
        return stripped
    try:
        return json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False)
    except ValueError:
        return stripped
