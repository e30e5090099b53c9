"""The tokenizer and chat template of the base, behind `core.ports.ChatTokenizer`."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from llguidance import LLTokenizer
from tokenizers.decoders import DecodeStream

from adapters.base.plain_content import PlainContent
from server.core.chat import ChatPrompt, RenderOrder
from server.core.errors import RequestError

_NUM_CONTEXT = 8
"""Prompt tokens that a stream looks back on: enough for a character's bytes and a word's start."""

_MAX_UNBOUNDED_TOKEN_BYTES = 1024
"""For tokenizers whose vocabulary doesn't bound what a token may stand for."""


class TransformersTokenizer:
    """Wraps a transformers fast tokenizer. Safe to use from several threads.

    `token_table` knows the bytes of each token; without one they come from the decoder.
    Special tokens written in messages stay text, unless `allows_special_tokens`.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        eos_token_ids: frozenset[int],
        token_table: LLTokenizer | None = None,
        allows_special_tokens: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._rust: Any = tokenizer.backend_tokenizer
        self._eos_token_ids = eos_token_ids
        self._token_table = token_table
        self._special_tokens = {k: str(v) for k, v in tokenizer.special_tokens_map.items()}
        self._longest_token = max(map(len, tokenizer.get_vocab()), default=1)
        self._content = None if allows_special_tokens else PlainContent(tokenizer)
        if self._content is not None:
            self._content.prepare()  # No request shall hold up the event loop with it.

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return self._eos_token_ids

    @property
    def chat_template(self) -> str:
        """The base's own template; empty when it has none."""
        template = self._tokenizer.chat_template
        return template if isinstance(template, str) else ""

    def encode(self, text: str, *, adds_special_tokens: bool = True) -> tuple[int, ...]:
        """Tokens of plain text, by default with those that the tokenizer adds by itself."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=adds_special_tokens))

    def decode(self, token_ids: Sequence[int], *, skips_special_tokens: bool = True) -> str:
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=skips_special_tokens
        )
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that `token_id` stands for; a special token's are its name."""
        if self._token_table is not None and token_id < self._token_table.vocab_size:
            return self._token_table.decode_bytes([token_id])
        text: str = self._tokenizer.decode([token_id])
        return text.encode()

    @cached_property
    def max_token_bytes(self) -> int:
        """The longest text, in UTF-8 bytes, that one token stands for.

        The vocabulary's own words are no shorter than that: a byte of text is at least a byte there
        (byte-level words write some bytes as two). A tokenizer with an unknown token may stand for
        any text with it, and one that normalises may shorten: then nothing bounds a text.
        """
        longest = max(len(word.encode()) for word in self._rust.get_vocab(with_added_tokens=True))
        model = self._rust.model
        has_unknown = getattr(model, "unk_token", None) is not None
        if self._rust.normalizer is None and not (
            has_unknown and not getattr(model, "byte_fallback", False)
        ):
            return longest
        return max(longest, _MAX_UNBOUNDED_TOKEN_BYTES)

    def token_name(self, token_id: int) -> str:
        """The vocabulary's own word for a token."""
        name: str | None = self._tokenizer.convert_ids_to_tokens(token_id)
        return name or ""

    def special_token_id(self, text: str) -> int | None:
        """The id of `text` if it is one special token."""
        token_id = self._rust.token_to_id(text)
        if token_id is None or self._token_table is None:
            return None
        return int(token_id) if self._token_table.is_special_token(token_id) else None

    def render_order(self, prompt: ChatPrompt, max_tokens: int) -> RenderOrder:
        """See `core.ports.ChatTokenizer.render_order`."""
        template = prompt.template or self.chat_template
        if not template:
            raise RequestError(
                "this base model has no chat template; use /v1/completions", "messages"
            )
        (messages, tools, arguments), mark = self._marked(prompt)
        return RenderOrder(
            owner=prompt.template_owner,
            template=template,
            messages=messages,
            tools=tools,
            variables={**self._special_tokens, **arguments},
            adds_generation_prompt=prompt.adds_generation_prompt
            and not prompt.continues_final_message,
            continues_final_message=prompt.continues_final_message,
            max_chars=max_tokens * self._longest_token,
            mark=mark,
        )

    def encode_rendered(self, order: RenderOrder, text: str) -> tuple[int, ...]:
        """See `core.ports.ChatTokenizer.encode_rendered`."""
        if self._content is not None:
            return self._content.encode(text, order.mark)
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _marked(self, prompt: ChatPrompt) -> tuple[Any, str]:
        """What the template is given, with special tokens marked; see `PlainContent`."""
        given = [prompt.messages, prompt.tools, prompt.template_arguments]
        if self._content is None:
            return given, ""
        try:
            return self._content.mark(given)
        except ValueError as error:
            raise RequestError(str(error), "messages") from error
        except RecursionError as error:
            raise RequestError(
                "messages, tools or chat_template_kwargs are nested too deep; flatten them",
                "messages",
            ) from error

    def stream(
        self, prompt: Sequence[int] = (), *, skips_special_tokens: bool = True
    ) -> "IncrementalText":
        return IncrementalText(
            self._tokenizer, prompt[-_NUM_CONTEXT:], skips_special_tokens=skips_special_tokens
        )


class IncrementalText:
    """Detokenises one answer, token by token.

    `context` are the tokens before the answer: whether a word begins with a space may depend on
    them (sentencepiece drops the first one of a text).
    """

    def __init__(
        self, tokenizer: Any, context: Sequence[int] = (), *, skips_special_tokens: bool = True
    ) -> None:
        self._rust: Any = tokenizer.backend_tokenizer
        self._skips = skips_special_tokens
        self._before = list(context)
        if self._decode(self._before).endswith("\ufffd"):
            self._before = []  # half a character would come again with its other half
        self._stream = DecodeStream(ids=self._before, skip_special_tokens=skips_special_tokens)
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes."""
        self._held.append(token_id)
        text: str | None = self._stream.step(self._rust, token_id)
        if text is None:
            return ""
        self._before = self._held[-_NUM_CONTEXT:]
        self._held.clear()
        return text

    def flush(self) -> str:
        """The text of tokens that never completed a character."""
        if not self._held:
            return ""
        before = self._decode(self._before)
        whole = self._decode(self._before + self._held)
        self._held.clear()
        return whole.removeprefix(before)

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._rust.decode(token_ids, skip_special_tokens=self._skips)
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
