"""A tokenizer with one token a byte-like symbol: token 8 is "a", 9 is "b", and so on."""

from collections.abc import Sequence

from server.core.chat import ChatPrompt, RenderOrder

FIRST = 8


class FakeTokenizer:
    """Implements `ChatTokenizer`; token 7 ends a turn and has no text."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset({7})

    @property
    def chat_template(self) -> str:
        return "{{ messages }}"

    def encode(self, text: str, *, adds_special_tokens: bool = True) -> tuple[int, ...]:
        return tuple(FIRST + ord(c) - ord("a") for c in text)

    def decode(self, token_ids: Sequence[int], *, skips_special_tokens: bool = True) -> str:
        return "".join(self.symbol(token) for token in token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self.symbol(token_id).encode()

    def token_name(self, token_id: int) -> str:
        return self.symbol(token_id)

    def special_token_id(self, text: str) -> int | None:
        return None

    def render_order(self, prompt: ChatPrompt, max_tokens: int) -> RenderOrder:
        return RenderOrder(prompt.template_owner, prompt.template or "", prompt.messages)

    def encode_rendered(self, order: RenderOrder, text: str) -> tuple[int, ...]:
        return self.encode(text)

    def stream(
        self, prompt: Sequence[int] = (), *, skips_special_tokens: bool = True
    ) -> "FakeTokenStream":
        return FakeTokenStream()

    @staticmethod
    def symbol(token: int) -> str:
        return "" if token == 7 else f"<{token}>"


class FakeTokenStream:
    def push(self, token_id: int) -> str:
        return FakeTokenizer.symbol(token_id)

    def flush(self) -> str:
        return ""
