"""The chat template that a base model or an adapter speaks, identified by its hash."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja chat template as `transformers` renders it."""

    text: str

    @property
    def hash(self) -> str:
        """`sha256:` of the template's UTF-8 bytes."""
        return "sha256:" + hashlib.sha256(self.text.encode()).hexdigest()
