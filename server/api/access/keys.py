"""API keys: how they look, how they are kept, and who a presented one belongs to.

A key is `sy-ID-SECRET`: the id finds the record and may stand in logs; the secret has 256 random
bits, so one salted SHA-256 keeps it (docs/adr/0021). The file never holds a secret.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from server.api.access.callers import BASE_WORD, Caller, Right

_KEY = re.compile(r"sy-(?P<id>[0-9a-f]{12})-(?P<secret>[A-Za-z0-9_-]{43})", re.ASCII)


class KeyRecord(BaseModel):
    """One key as the keys file has it. `adapters` and the rest may be edited by hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    adapters: tuple[str, ...] = (BASE_WORD, "*")
    rights: frozenset[Right] = frozenset({Right.INFER})
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    priority: float = Field(1.0, gt=0.0, le=1000.0)

    def as_caller(self) -> Caller:
        """What the key may do, without what proves it."""
        return Caller(
            self.id,
            self.name,
            self.adapters,
            self.rights,
            self.priority,
            self.requests_per_minute,
            self.tokens_per_minute,
        )


def new_key() -> tuple[str, str, str, str]:
    """A fresh random key: (the key to hand out, id, salt, hash)."""
    key_id, salt, secret = secrets.token_hex(6), secrets.token_hex(16), secrets.token_urlsafe(32)
    return f"sy-{key_id}-{secret}", key_id, salt, _hash(salt, secret)


class KeyRing:
    """The keys that are valid now. Looking one up takes the same time whether it exists or not."""

    def __init__(self, records: Iterable[KeyRecord] = ()) -> None:
        self._records: dict[str, KeyRecord] = {}
        self._callers: dict[str, Caller] = {}
        self.is_file_refused = False
        """The keys file can't be used now, and the keys stay as they were."""
        self.replace(records)

    def __len__(self) -> int:
        return len(self._records)

    def replace(self, records: Iterable[KeyRecord]) -> None:
        """Let exactly `records`, which a file gave, be valid from now on."""
        self.is_file_refused = False
        self._records = {record.id: record for record in records}
        self._callers = {key_id: r.as_caller() for key_id, r in self._records.items()}

    def refuse_file(self) -> None:
        """The file has changed and can't be used: the keys stay as they are."""
        self.is_file_refused = True

    def caller_of(self, key: str) -> Caller | None:
        """Whose key this is; None when it is nobody's."""
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        record = self._records.get(match["id"])
        salt, expected = (record.salt, record.sha256) if record else ("0" * 32, "0" * 64)
        is_right = hmac.compare_digest(_hash(salt, match["secret"]), expected)
        return self._callers.get(match["id"]) if is_right else None


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + secret.encode()).hexdigest()
