"""The tokenizer and chat template of the base, behind `core.ports.ChatTokenizer`."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers.decoders import DecodeStream

from server.core.errors import RequestError


class TransformersTokenizer:
    """Wraps a transformers fast tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: Any, *, eos_token_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self._eos_token_ids

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of plain text, with the special tokens that the tokenizer adds by itself."""
        return tuple(self._tokenizer.encode(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Tokens of the chat template over `messages`, ready for the assistant's answer."""
        if not self._tokenizer.chat_template:
            raise RequestError(
                "this base model has no chat template; use /v1/completions", "messages"
            )
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise RequestError(
                f"the chat template of this model refuses these messages: {error}", "messages"
            ) from error
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def stream(self) -> "IncrementalText":
        return IncrementalText(self._tokenizer)


class IncrementalText:
    """Detokenises one answer, token by token."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._rust: Any = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes."""
        self._held.append(token_id)
        text: str | None = self._stream.step(self._rust, token_id)
        if text is None:
            return ""
        self._held.clear()
        return text

    def flush(self) -> str:
        """The text of tokens that never completed a character."""
        if not self._held:
            return ""
        text: str = self._tokenizer.decode(self._held, skip_special_tokens=True)
        self._held.clear()
        return text


def eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-turn tokens: the generation config's and the tokenizer's own."""
    ids = set()
    for value in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        if isinstance(value, int):
            ids.add(value)
        elif value is not None:
            ids.update(int(v) for v in value)
    return frozenset(ids)
