"""The chat template that a base model or an adapter speaks, identified by its hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.format.manifest import template_hash
from adapters.template_check import BaseTemplate


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja chat template as `transformers` renders it."""

    text: str

    @property
    def hash(self) -> str:
        """`sha256:` of the template's UTF-8 bytes."""
        return template_hash(self.text)


def base_template(tokenizer: Any, template: ChatTemplate) -> BaseTemplate:
    """What adapters' templates and golden tokens are compared with.

    `tokenizer` is the base's, from transformers; the base's own template is all that it renders.
    """
    from jinja2 import TemplateError

    def tokens(messages: Sequence[Mapping[str, str]]) -> Sequence[int] | None:
        try:
            text = tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=template.text,
                add_generation_prompt=True,
                tokenize=False,
            )
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError):
            return None
        found: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return found

    return BaseTemplate(template.hash if template.text else None, tokens)
