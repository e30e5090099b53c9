"""Turns prompts and conversations into tokens that fit the model's window."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.types import Receive

from server.api.callers import CurrentCaller
from server.api.deadlines import CurrentDeadline
from server.api.disconnect import await_while_connected
from server.core.chat import ChatPrompt
from server.core.errors import PromptTooLongError, RequestError
from server.core.model_info import ModelInfo
from server.core.ports import ChatRenderer, ChatTokenizer

# Below this, tokenising takes less time than handing it to a thread would save the event loop.
_MAX_INLINE_CHARS = 16_384

TokenIds = tuple[int, ...]
_Made = TypeVar("_Made")


class PromptTokens:
    """Tokenises on the event loop what is short, on a thread what is long.

    Chat templates are rendered by `renderer`, in the turns of the current caller (whose template
    it is, where nobody has a key) and within the current deadline.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        renderer: ChatRenderer,
        info: ModelInfo,
        *,
        current: CurrentCaller,
        deadline: CurrentDeadline,
    ) -> None:
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._info = info
        self._current = current
        self._deadline = deadline

    async def of_chat(self, prompt: ChatPrompt, receive: Receive) -> TokenIds:
        """Tokens of a rendered conversation; the client's leaving, seen by `receive`, ends it.

        Raises what `ChatRenderer.render` does, and `ClientGoneError`.
        """
        rendering = asyncio.create_task(self._of_chat(prompt))
        await await_while_connected(rendering, receive)
        return rendering.result()

    async def _of_chat(self, prompt: ChatPrompt) -> TokenIds:
        num_chars = sum(len(str(message.get("content"))) for message in prompt.messages)
        window = self._info.max_model_len
        order = await self._made(lambda: self._tokenizer.render_order(prompt, window), num_chars)
        text = await self._renderer.render(
            order,
            caller=self._current.get().key_id or order.owner,
            timeout_seconds=self._deadline.remaining_seconds(),
        )
        return await self._made(lambda: self._tokenizer.encode_rendered(order, text), len(text))

    async def of_prompt(
        self, prompt: str | list[int], *, adds_special_tokens: bool = True
    ) -> TokenIds:
        """Tokens of a completion's prompt. Raises `RequestError` for unknown ids, or for none."""
        if isinstance(prompt, str):
            token_ids = await self.encoded(prompt, adds_special_tokens=adds_special_tokens)
        else:
            token_ids = tuple(prompt)
            self.check_ids(token_ids, "prompt")
        if not token_ids:
            raise RequestError("prompt is empty; give at least one token to continue", "prompt")
        return token_ids

    async def encoded(self, text: str, *, adds_special_tokens: bool) -> TokenIds:
        """Tokens of plain text; there may be none."""
        return await self._made(
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

    async def _made(self, make: Callable[[], _Made], num_chars: int) -> _Made:
        if num_chars <= _MAX_INLINE_CHARS:
            return make()
        return await asyncio.to_thread(make)
