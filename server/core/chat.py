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
    else `adds_generation_prompt` opens the assistant's answer. `template_owner` is whose template
    it is, for errors: "the base", or an adapter's label.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    template: str | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    adds_generation_prompt: bool = True
    continues_final_message: bool = False
    template_owner: str = "the base"


@dataclass(frozen=True, slots=True)
class RenderOrder:
    """A conversation as a renderer is given it: JSON's types and nothing else.

    `variables` are all that the template may look at beside messages and tools. `mark` stands in
    the strings where special tokens are to stay text ("" for nowhere); whoever encodes the text
    knows it. A text of more than `max_chars` characters can't fit in the model's window.
    """

    owner: str
    template: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    adds_generation_prompt: bool = True
    continues_final_message: bool = False
    max_chars: int = 1 << 20
    mark: str = ""
