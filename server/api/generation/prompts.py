"""Turns prompts and conversations into tokens that fit the model's window."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from server.api.access.callers import CurrentCaller
from server.api.access.deadlines import CurrentDeadline
from server.api.requests.side_work import SideWork
from server.core.chat import ChatPrompt
from server.core.errors import PromptTooLongError, RequestError
from server.core.model_info import ModelInfo
from server.core.ports import ChatRenderer, ChatTokenizer

# Below this, tokenising takes less time than handing it to a thread would save the event loop.
_MAX_INLINE_CHARS = 16_384

_CHARS_OF_A_MESSAGE = 200
"""Of text whose tokenising takes as long as rendering one message."""

TokenIds = tuple[int, ...]
_Made = TypeVar("_Made")


class PromptTokens:
    """Tokenises on the event loop what is short, on a thread what is long.

    What can't fit whatever its tokens are is refused before any work. Chat templates are rendered
    by `renderer`, in the turns of the current caller (whose template it is, where nobody has a key)
    and within the current deadline.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        renderer: ChatRenderer,
        info: ModelInfo,
        side: SideWork,
        *,
        current: CurrentCaller,
        deadline: CurrentDeadline,
    ) -> None:
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._info = info
        self._side = side
        self._current = current
        self._deadline = deadline
        self.max_bytes = info.max_model_len * tokenizer.max_token_bytes
        """UTF-8 bytes of the longest text that can fit into the window."""

    async def of_chat(self, prompt: ChatPrompt) -> TokenIds:
        """Tokens of a rendered conversation. Raises what `ChatRenderer.render` does."""
        texts = [str(message.get("content")) for message in prompt.messages]
        self._check_bytes(texts, "messages")
        num_chars = sum(map(len, texts)) + _CHARS_OF_A_MESSAGE * len(texts)
        window = self._info.max_model_len
        order = await self._made(lambda: self._tokenizer.render_order(prompt, window), num_chars)
        text = await self._renderer.render(
            order,
            caller=self._current.get().key_id or order.owner,
            timeout_seconds=self._deadline.remaining_seconds(),
        )
        return await self._made(lambda: self._tokenizer.encode_rendered(order, text), len(text))

    async def of_prompt(
        self, prompt: str | list[int], *, adds_special_tokens: bool = True, is_cut: bool = False
    ) -> TokenIds:
        """Tokens of a completion's prompt. Raises `RequestError` for unknown ids, or for none.

        Ids that don't fit raise `PromptTooLongError`, unless the prompt is to be cut anyway.
        """
        if isinstance(prompt, str):
            token_ids = await self.encoded(prompt, adds_special_tokens=adds_special_tokens)
            self.check_text(token_ids, "prompt")
        else:
            if not is_cut:
                self.check_count(len(prompt), "prompt")
            token_ids = tuple(prompt)
            self._info.check_token_ids(token_ids, "prompt")
        if not token_ids:
            raise RequestError("prompt is empty; give at least one token to continue", "prompt")
        return token_ids

    async def encoded(self, text: str, *, adds_special_tokens: bool) -> TokenIds:
        """Tokens of plain text; there may be none."""
        self._check_bytes([text], "prompt")
        return await self._made(
            lambda: self._tokenizer.encode(text, adds_special_tokens=adds_special_tokens),
            len(text),
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

    def check_count(self, count: int, param: str) -> None:
        """Raises `PromptTooLongError` for more token ids than the window has."""
        window = self._info.max_model_len
        if count > window:
            raise PromptTooLongError(
                f"{param} has {count} token ids; this model's window is {window} tokens: shorten "
                f"{param}",
                param,
            )

    def _check_bytes(self, texts: Sequence[str], param: str) -> None:
        num_chars = sum(map(len, texts))
        # A character has 1 to 4 bytes: most texts need no encoding to know that they are short.
        if 4 * num_chars <= self.max_bytes:
            return
        num_bytes = sum(len(text.encode(errors="replace")) for text in texts)
        if num_bytes > self.max_bytes:
            raise PromptTooLongError(
                f"{param} has {num_bytes} bytes of text; this model's window of "
                f"{self._info.max_model_len} tokens holds at most {self.max_bytes} bytes, however "
                f"the text is written. Shorten {param}",
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

    async def _made(self, make: Callable[[], _Made], num_chars: int) -> _Made:
        if num_chars <= _MAX_INLINE_CHARS:
            return make()
        return await self._side.run(make)
