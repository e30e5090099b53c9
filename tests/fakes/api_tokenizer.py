"""A tokenizer whose tokens are UTF-8 bytes; token 256 ends a turn.

Arguments for the chat template come out as lines before the conversation.
"""

import codecs
from collections.abc import Sequence

from server.core.chat import ChatPrompt, RenderOrder
from server.core.errors import RequestError

END_OF_TURN = 256
VOCAB_SIZE = 257


class FakeTokenizer:
    """Implements `ChatTokenizer`."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset({END_OF_TURN})

    @property
    def chat_template(self) -> str:
        return "{{ messages }}"

    def encode(self, text: str, *, adds_special_tokens: bool = True) -> tuple[int, ...]:
        return tuple(text.encode())

    def decode(self, token_ids: Sequence[int], *, skips_special_tokens: bool = True) -> str:
        return bytes(t for t in token_ids if t < 256).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b"<end>"

    @property
    def max_token_bytes(self) -> int:
        return len(b"<end>")

    def token_name(self, token_id: int) -> str:
        return f"<{token_id}>"

    def special_token_id(self, text: str) -> int | None:
        return None

    def render_order(self, prompt: ChatPrompt, max_tokens: int) -> RenderOrder:
        return RenderOrder(
            prompt.template_owner,
            prompt.template or "",
            prompt.messages,
            variables=prompt.template_arguments,
            adds_generation_prompt=prompt.adds_generation_prompt,
            continues_final_message=prompt.continues_final_message,
        )

    def encode_rendered(self, order: RenderOrder, text: str) -> tuple[int, ...]:
        return self.encode(text)

    def stream(
        self, prompt: Sequence[int] = (), *, skips_special_tokens: bool = True
    ) -> "ByteStream":
        return ByteStream()


class FakeRenderer:
    """Implements `ChatRenderer`; its chat template refuses a conversation that starts oddly."""

    async def render(
        self, order: RenderOrder, *, caller: str, timeout_seconds: float | None
    ) -> str:
        messages = order.messages
        if messages[0]["role"] == "assistant":
            raise RequestError("the chat template wants a user's turn first", "messages")
        lines = [f"{name}={value}\n" for name, value in order.variables.items()]
        lines += [f"{message['role']}: {message['content']}\n" for message in messages]
        if order.continues_final_message:
            return "".join(lines).rstrip("\n")
        if order.adds_generation_prompt:
            lines.append("assistant: ")
        return "".join([order.template, *lines])


class ByteStream:
    """Holds the bytes of a character back until it is whole."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(bytes([token_id])) if token_id < 256 else ""

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)
