"""Keys for tests, with the record that belongs to each."""

from server.api.access.callers import Right
from server.api.access.keys import KeyRecord, new_key


def make_key(name: str, **options: object) -> tuple[str, KeyRecord]:
    """A key to present, and its record; `options` are the record's fields."""
    key, key_id, salt, digest = new_key()
    values = {"id": key_id, "name": name, "salt": salt, "sha256": digest, **options}
    return key, KeyRecord.model_validate(values)


ALL_RIGHTS = frozenset(Right)
