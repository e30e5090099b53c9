"""Log probabilities as the OpenAI API's chat and completion objects have them."""

from collections.abc import Sequence
from typing import Any

from server.core.logprobs import TokenLogprobs
from server.core.ports import ChatTokenizer

LEAST = -9999.0
"""Stands for minus infinity, which JSON doesn't have."""

_Alternatives = dict[str, float]


class LogprobObjects:
    """Writes the objects of one server's vocabulary."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer

    def chat(self, entries: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """`choices[].logprobs` of a chat answer or chunk."""
        return {"content": self.chat_tokens(entries), "refusal": None}

    def chat_tokens(self, entries: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        """One object a token, with its bytes and its alternatives."""
        return [
            {
                **self._chat_token(entry.token_id, entry.logprob),
                "top_logprobs": [self._chat_token(*alternative) for alternative in entry.top],
            }
            for entry in entries
        ]

    def completion(
        self, entries: Sequence[TokenLogprobs], *, first_offset: int = 0
    ) -> dict[str, Any]:
        """`choices[].logprobs` of a completion: parallel lists.

        `first_offset` is added to each entry's own: an echoed prompt comes before it.
        """
        return {
            "tokens": [self.token_text(entry.token_id) for entry in entries],
            "token_logprobs": [_finite(entry.logprob) for entry in entries],
            "top_logprobs": [self._alternatives(entry) for entry in entries],
            "text_offset": [first_offset + entry.offset for entry in entries],
        }

    def prompt(self, prompt: Sequence[int], scores: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """The same for an echoed prompt, whose first token has no log probability."""
        told: dict[str, Any] = {
            "tokens": [self.token_text(token) for token in prompt],
            "token_logprobs": [None, *(_finite(score.logprob) for score in scores)],
            "top_logprobs": [None, *(self._alternatives(score) for score in scores)],
        }
        stream, num_chars, offsets = self._tokenizer.stream(), 0, []
        for token in prompt:
            offsets.append(num_chars)
            num_chars += len(stream.push(token))
        told["text_offset"] = offsets
        return told

    def vllm_prompt(self, prompt: Sequence[int], scores: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """vLLM's member `prompt_logprobs`: by token id, with rank; None for the first token."""
        told: list[dict[str, Any] | None] = [None] if prompt else []
        for score in scores:
            ranked = {token: (value, i) for i, (token, value) in enumerate(score.top, 1)}
            ranked.setdefault(score.token_id, (score.logprob, score.rank))
            told.append(
                {
                    str(token): {
                        "logprob": _finite(value),
                        "rank": rank,
                        "decoded_token": self.token_text(token),
                    }
                    for token, (value, rank) in ranked.items()
                }
            )
        return {"prompt_logprobs": told}

    def token_text(self, token_id: int) -> str:
        """The token's text; `bytes:\\xe2\\x80` for part of a character, as in the OpenAI API."""
        content = self._tokenizer.token_bytes(token_id)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)

    def _chat_token(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self.token_text(token_id),
            "logprob": _finite(logprob),
            "bytes": list(self._tokenizer.token_bytes(token_id)),
        }

    def _alternatives(self, entry: TokenLogprobs) -> _Alternatives:
        """The best tokens by their text, and the chosen one."""
        told: _Alternatives = {}
        for token_id, value in (*entry.top, (entry.token_id, entry.logprob)):
            text = self.token_text(token_id)
            told[text] = max(told.get(text, LEAST), _finite(value))
        return told


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
