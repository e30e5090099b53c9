"""What a row of training data is once its format is known: turns of a conversation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"

TEXT = "text"
"""Role of the one turn of a row that is no conversation: plain text, learnt from end to end."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `role` is any string until cleaning has checked the order of roles.

    `tool_calls` is the canonical JSON of the calls that an assistant's turn makes, or "".
    """

    role: str
    content: str
    tool_calls: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order: after cleaning an optional system turn, then user and assistant in turn.

    Where tools are called, the assistant's turn is followed by tool turns and another of its own.
    `tools` is the canonical JSON of the tools that were on offer, or "".
    """

    turns: tuple[Turn, ...]
    tools: str = ""

    @property
    def is_text(self) -> bool:
        """Plain text instead of a conversation."""
        return len(self.turns) == 1 and self.turns[0].role == TEXT

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """The turns that lead to the last answer; none for plain text."""
        return self.turns[:-1]

    @property
    def question(self) -> str:
        """What the person asked last; empty where nobody asked."""
        return next((turn.content for turn in reversed(self.prompt) if turn.role == USER), "")

    @property
    def answer(self) -> str:
        return self.turns[-1].content

    @property
    def key(self) -> str:
        """Canonical JSON; two conversations are exact duplicates if their keys are equal."""
        return turns_key(self.turns, self.tools)

    @property
    def held_out_key(self) -> str:
        """What must not be known from training when this row is held out: its prompt, or text."""
        return turns_key(self.prompt or self.turns)


def turns_key(turns: Sequence[Turn], tools: str = "") -> str:
    """Canonical JSON of turns, the same on every machine."""
    written: list[Any] = [
        [t.role, t.content, t.tool_calls] if t.tool_calls else [t.role, t.content] for t in turns
    ]
    return json.dumps([*written, {"tools": tools}] if tools else written, ensure_ascii=False)


def parse_key(key: str) -> Conversation:
    """The conversation whose `key` this is."""
    *turns, last = json.loads(key)
    tools = last["tools"] if isinstance(last, dict) else ""
    if not tools:
        turns.append(last)
    return Conversation(tuple(Turn(*turn) for turn in turns), tools)


def as_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns as chat templates take them."""
    return [
        {"role": t.role, "content": t.content, "tool_calls": json.loads(t.tool_calls)}
        if t.tool_calls
        else {"role": t.role, "content": t.content}
        for t in turns
    ]
