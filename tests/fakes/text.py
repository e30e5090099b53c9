"""A tokenizer with one token a byte-like symbol: token 8 is "a", 9 is "b", and so on."""

from collections.abc import Mapping, Sequence

FIRST = 8


class FakeTokenizer:
    """Implements `ChatTokenizer`; token 7 ends a turn and has no text."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset({7})

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(FIRST + ord(c) - ord("a") for c in text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.symbol(token) for token in token_ids)

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        return self.encode("".join(m["content"] for m in messages))

    def stream(self) -> "FakeTokenStream":
        return FakeTokenStream()

    @staticmethod
    def symbol(token: int) -> str:
        return "" if token == 7 else f"<{token}>"


class FakeTokenStream:
    def push(self, token_id: int) -> str:
        return FakeTokenizer.symbol(token_id)

    def flush(self) -> str:
        return ""
