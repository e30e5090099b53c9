"""What a row of training data is once its format is known: turns of a conversation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `role` is any string until cleaning has checked the order of roles."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order: after cleaning an optional system turn, then user and assistant in turn."""

    turns: tuple[Turn, ...]

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """The turns that lead to the last answer."""
        return self.turns[:-1]

    @property
    def answer(self) -> str:
        return self.turns[-1].content

    @property
    def key(self) -> str:
        """Canonical JSON; two conversations are exact duplicates if their keys are equal."""
        return turns_key(self.turns)


def turns_key(turns: Sequence[Turn]) -> str:
    """Canonical JSON of turns, the same on every machine."""
    return json.dumps([[t.role, t.content] for t in turns], ensure_ascii=False)


def as_messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Turns as chat templates take them."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]
