"""What a row of training data is once its format is known: turns of a conversation."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapters.base.chat_messages import TemplateMessage, template_message

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"

TEXT = "text"
"""Role of the one turn of a row that is no conversation: plain text, learnt from end to end."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `role` is any string until cleaning has checked the order of roles.

    `tool_calls` is the canonical JSON of the calls that an assistant's turn makes, or "".
    `name` and `tool_call_id` go to the template as they are, `reasoning` as `reasoning_content`.
    An assistant's turn that isn't `is_trained` is history: no loss is computed on it.
    """

    role: str
    content: str
    tool_calls: str = ""
    name: str | None = None
    tool_call_id: str | None = None
    reasoning: str = ""
    is_trained: bool = True

    @property
    def is_empty(self) -> bool:
        """Nothing said and nothing called."""
        return not (self.tool_calls or self.content.strip())


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order: after cleaning an optional system turn, then user and assistant in turn.

    Where tools are called, the assistant's turn is followed by tool turns and another of its own.
    `tools` is the canonical JSON of the tools that were on offer, or "".
    """

    turns: tuple[Turn, ...]
    tools: str = ""

    @property
    def num_trained(self) -> int:
        """Turns that carry loss."""
        return sum(turn.role in (ASSISTANT, TEXT) and turn.is_trained for turn in self.turns)

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


_MORE = ("name", "tool_call_id", "reasoning", "is_trained")
"""Fields of a turn that most turns leave at their defaults."""


def turns_key(turns: Sequence[Turn], tools: str = "") -> str:
    """Canonical JSON of turns, the same on every machine."""
    written: list[Any] = [_written(turn) for turn in turns]
    return json.dumps([*written, {"tools": tools}] if tools else written, ensure_ascii=False)


def _written(turn: Turn) -> list[Any]:
    more = {name: getattr(turn, name) for name in _MORE if getattr(turn, name) != _DEFAULTS[name]}
    if more:
        return [turn.role, turn.content, turn.tool_calls, more]
    said = [turn.role, turn.content]
    return [*said, turn.tool_calls] if turn.tool_calls else said


_DEFAULTS = {name: getattr(Turn("", ""), name) for name in _MORE}


def _read(written: Sequence[Any]) -> Turn:
    return Turn(*written[:3], **(written[3] if len(written) > 3 else {}))


def parse_key(key: str) -> Conversation:
    """The conversation whose `key` this is."""
    *turns, last = json.loads(key)
    tools = last["tools"] if isinstance(last, dict) else ""
    if not tools:
        turns.append(last)
    return Conversation(tuple(_read(turn) for turn in turns), tools)


def as_request(conversation: Conversation) -> dict[str, Any]:
    """What of the prompt a client sends to a server: `messages`, arguments as text, and `tools`."""
    messages = as_messages(conversation.prompt)
    for message in messages:
        for call in message.get("tool_calls", ()):
            arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            call["function"] = {**call["function"], "arguments": arguments}
    body: dict[str, Any] = {"messages": messages}
    return {**body, "tools": json.loads(conversation.tools)} if conversation.tools else body


def as_messages(turns: Sequence[Turn]) -> list[TemplateMessage]:
    """Turns as chat templates take them."""
    return [
        template_message(
            turn.role,
            turn.content,
            name=turn.name,
            tool_call_id=turn.tool_call_id,
            tool_calls=json.loads(turn.tool_calls) if turn.tool_calls else (),
            reasoning=turn.reasoning,
        )
        for turn in turns
    ]
