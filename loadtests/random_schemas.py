"""Random JSON schemas that a small model can finish: all that may be long is bounded."""

import random
from typing import Any

Schema = dict[str, Any]

MAX_DEPTH = 4
"""Containers within each other."""

_WORDS = (
    "name", "city", "größe", "straße", "日本", "ключ", "prix €", "naïve", "emoji 🚲", "tag-1",
    "a.b", "quote \" here", "back\\slash", "عنوان", "x", "with space",
)  # fmt: skip
_VALUES = (
    "red", "grün", "low", "high", "東京", "да", "🙂", "line\nbreak", "tab\t", "\"quoted\"", "", "½",
    7, -3, 0, 2.5, True, False, None,
)  # fmt: skip
_PATTERNS = ("^[A-Z]{2}-[0-9]{3}$", "^(ja|nein|vielleicht)$", "^[äöü]{1,4}$", "^#[0-9a-f]{6}$")
_FORMATS = ("date", "uuid", "ipv4")
_NUM_SCALARS = 12


def random_schema(seed: int) -> Schema:
    """An object's schema, the same for the same seed; its keywords are those llguidance takes."""
    return _SchemaMaker(random.Random(seed)).root()


class _SchemaMaker:
    """Draws one schema. `_num_left` bounds the values in a document, whatever its nesting."""

    def __init__(self, draws: random.Random) -> None:
        self._draws = draws
        self._num_left = _NUM_SCALARS

    def root(self) -> Schema:
        return self._object(1)

    def _value(self, depth: int) -> Schema:
        makers = [self._string, self._integer, self._enum, self._constant, self._simple]
        if depth < MAX_DEPTH and self._num_left > 1:
            nested = [self._object, self._object, self._array, self._array, self._union]
            if self._draws.random() < 0.5:
                return self._draws.choice(nested)(depth + 1)
        self._num_left -= 1
        return self._draws.choice(makers)()

    def _object(self, depth: int) -> Schema:
        names = self._draws.sample(_WORDS, self._draws.randint(1, min(4, max(1, self._num_left))))
        properties: dict[str, Any] = {name: self._value(depth) for name in names}
        required = [name for name in names if self._draws.random() < 0.7]
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def _array(self, depth: int) -> Schema:
        least = self._draws.randint(0, 2)
        most = least + self._draws.randint(0 if least else 1, 1)
        if self._draws.random() < 0.25:
            fixed = [self._value(depth) for _ in range(self._draws.randint(1, 3))]
            size = len(fixed)
            return {
                "type": "array", "prefixItems": fixed, "items": False,
                "minItems": size, "maxItems": size,
            }  # fmt: skip
        items = self._value(depth)
        return {"type": "array", "items": items, "minItems": least, "maxItems": most}

    def _union(self, depth: int) -> Schema:
        return {"anyOf": [self._value(depth) for _ in range(self._draws.randint(2, 3))]}

    def _string(self) -> Schema:
        match self._draws.randrange(3):
            case 0:
                return {"type": "string", "pattern": self._draws.choice(_PATTERNS)}
            case 1:
                return {"type": "string", "format": self._draws.choice(_FORMATS)}
        least = self._draws.randint(0, 4)
        return {
            "type": "string",
            "minLength": least,
            "maxLength": least + self._draws.randint(1, 12),
        }

    def _integer(self) -> Schema:
        low = self._draws.randint(-1000, 1000)
        return {"type": "integer", "minimum": low, "maximum": low + self._draws.randint(0, 5000)}

    def _enum(self) -> Schema:
        return {"enum": self._draws.sample(_VALUES, self._draws.randint(1, 6))}

    def _constant(self) -> Schema:
        return {"const": self._draws.choice(_VALUES)}

    def _simple(self) -> Schema:
        return {"type": self._draws.choice(["boolean", "null", ["boolean", "null"]])}
