"""A conversation, as a chat template is asked to render it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Messages and everything else that the template may look at.

    `messages` are in the form that chat templates expect: role and content, `tool_calls` with their
    arguments as objects. `tools` are the functions' definitions as the OpenAI API has them.
    `template` replaces the base's own; None means the base's. `template_arguments` are further
    variables. With `continues_final_message` the last message is left open and goes on;
    else `adds_generation_prompt` opens the assistant's answer.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    template: str | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    adds_generation_prompt: bool = True
    continues_final_message: bool = False
