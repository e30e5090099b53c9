"""Turns prompts and conversations into tokens that fit the model's window."""

import asyncio
from collections.abc import Callable

from server.core.chat import ChatPrompt
from server.core.errors import PromptTooLongError, RequestError
from server.core.model_info import ModelInfo
from server.core.ports import ChatTokenizer

# Below this, tokenising takes less time than handing it to a thread would save the event loop.
_MAX_INLINE_CHARS = 16_384

TokenIds = tuple[int, ...]


class PromptTokens:
    """Tokenises on the event loop what is short, on a thread what is long."""

    def __init__(self, tokenizer: ChatTokenizer, info: ModelInfo) -> None:
        self._tokenizer = tokenizer
        self._info = info

    async def of_chat(self, prompt: ChatPrompt) -> TokenIds:
        """Tokens of a rendered conversation. Raises `RequestError` when the template refuses it."""
        num_chars = sum(len(str(message.get("content"))) for message in prompt.messages)
        return await self._tokens(lambda: self._tokenizer.render_chat(prompt), num_chars)

    async def of_prompt(
        self, prompt: str | list[int], *, adds_special_tokens: bool = True
    ) -> TokenIds:
        """Tokens of a completion's prompt. Raises `RequestError` for unknown ones, or for none."""
        if isinstance(prompt, str):
            token_ids = await self.encoded(prompt, adds_special_tokens=adds_special_tokens)
            self.check_text(token_ids, "prompt")
        else:
            token_ids = tuple(prompt)
            self.check_ids(token_ids, "prompt")
        if not token_ids:
            raise RequestError("prompt is empty; give at least one token to continue", "prompt")
        return token_ids

    async def encoded(self, text: str, *, adds_special_tokens: bool) -> TokenIds:
        """Tokens of plain text; there may be none."""
        return await self._tokens(
            lambda: self._tokenizer.encode(text, adds_special_tokens=adds_special_tokens),
            len(text),
        )

    def check_ids(self, token_ids: TokenIds, param: str) -> None:
        """Raises `RequestError` for an id that the model doesn't have."""
        size = self._info.vocab_size
        unknown = next((t for t in token_ids if not 0 <= t < size), None)
        if unknown is not None:
            raise RequestError(
                f"{param} holds the token id {unknown}; this model's are 0 to {size - 1}", param
            )

    def check_text(self, token_ids: TokenIds, param: str) -> None:
        """Raises `RequestError` for text whose tokens the model doesn't have.

        A tokenizer may know more tokens than the model's embedding has rows.
        """
        size = self._info.vocab_size
        # max() of a tuple takes a fifth of the time of a loop that stops at the first.
        if not token_ids or max(token_ids) < size:
            return
        unknown = next(token for token in token_ids if token >= size)
        raise RequestError(
            f"{param} holds the text {self._tokenizer.token_name(unknown)!r}, which this base's "
            f"tokenizer makes token {unknown}; the model's own are 0 to {size - 1}. Leave that "
            "text out",
            param,
        )

    def truncated(self, prompt: TokenIds, limit: int | None, max_tokens: int | None) -> TokenIds:
        """The last `limit` tokens; -1 for as many as leave room for the answer."""
        if limit is None:
            return prompt
        if limit < 0:
            limit = max(1, self._info.max_model_len - (max_tokens or 1))
        return prompt[-limit:]

    def room(self, prompt: TokenIds, param: str) -> int:
        """Tokens of answer that fit behind `prompt`, at least 1."""
        window = self._info.max_model_len
        if len(prompt) >= window:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens; this model's window is {window} tokens, "
                f"prompt and answer together. Shorten {param} to {window - 1} tokens or fewer",
                param,
            )
        return window - len(prompt)

    def check_fits(self, prompt: TokenIds, max_tokens: int, param: str) -> None:
        """Raises `PromptTooLongError` when prompt and answer exceed the window."""
        room = self.room(prompt, param)
        if max_tokens > room:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens and max_tokens is {max_tokens}; together "
                f"they exceed this model's window of {self._info.max_model_len} tokens. Set "
                f"max_tokens to {room} or less, or shorten {param}",
                "max_tokens",
            )

    async def _tokens(self, tokenise: Callable[[], TokenIds], num_chars: int) -> TokenIds:
        if num_chars <= _MAX_INLINE_CHARS:
            return tokenise()
        return await asyncio.to_thread(tokenise)
