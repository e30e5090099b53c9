"""JSON schemas as clients send them, brought to what a grammar can enforce."""

from typing import Any

ENFORCED_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid",
     "unknown")
)  # fmt: skip
"""The formats that llguidance knows."""

_OF_SCHEMAS_BY_NAME = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
)
_OF_VALUES = frozenset(("enum", "const", "default", "examples", "example"))


def with_known_formats(schema: Any) -> Any:
    """`schema` without the formats that nothing here enforces.

    JSON Schema 2020-12 has `format` as an annotation: one that isn't known asks for nothing.
    """
    if isinstance(schema, list):
        return [with_known_formats(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "format" and isinstance(value, str) and value not in ENFORCED_FORMATS:
            continue
        if name in _OF_VALUES:
            kept[name] = value
        elif name in _OF_SCHEMAS_BY_NAME and isinstance(value, dict):
            kept[name] = {key: with_known_formats(inner) for key, inner in value.items()}
        else:
            kept[name] = with_known_formats(value)
    return kept
