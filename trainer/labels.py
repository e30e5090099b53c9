"""Which tokens of a conversation carry loss: the assistant's, and the token that ends its turn."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.conversation import ASSISTANT, Conversation, Turn, as_messages
from trainer.errors import TemplateError


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """Tokens of one example and, for each, whether predicting it counts."""

    token_ids: tuple[int, ...]
    carries_loss: tuple[bool, ...]

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.carries_loss)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_loss_tokens(self) -> int:
        """Targets of this row; the first token is never predicted."""
        return sum(self.carries_loss[1:])

    def truncated(self, max_length: int) -> "LabelledRow":
        """The first `max_length` tokens."""
        return LabelledRow(self.token_ids[:max_length], self.carries_loss[:max_length])


class ConversationLabeller:
    """Renders conversations with a chat template and masks them by prefix differences.

    The prompt of an answer is rendered exactly as a server would render it (generation prompt
    included); what the template adds when the answer is there, up to and with the first special
    token after it, is what the model must learn to write. So no tags in the template are needed.
    `tokenizer` is a transformers tokenizer; `template_text` a Jinja chat template.
    """

    def __init__(self, tokenizer: Any, template_text: str) -> None:
        if not template_text:
            raise TemplateError("the base has no chat template, so conversations can't be rendered")
        self._tokenizer = tokenizer
        self._template_text = template_text
        self._special_ids = frozenset(tokenizer.all_special_ids) | frozenset(
            token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
        )

    def prompt_ids(self, turns: Sequence[Turn]) -> tuple[int, ...]:
        """Tokens of a prompt, ready for the answer, as a server computes them."""
        return self._encode(self._render(as_messages(turns), add_generation_prompt=True))

    def message_ids(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """`prompt_ids` for role and content mappings."""
        return self._encode(self._render(list(messages), add_generation_prompt=True))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, special ones included."""
        return str(self._tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))

    def label(self, conversation: Conversation) -> LabelledRow:
        """Tokens and loss mask of a clean conversation.

        Raises `TemplateError` when the rendering up to an answer isn't a prefix of the rendering
        with it, or when the template puts no special token after an answer.
        """
        turns = conversation.turns
        ids = self._encode(self._render(as_messages(turns), add_generation_prompt=False))
        mask = [False] * len(ids)
        for index, turn in enumerate(turns):
            if turn.role != ASSISTANT:
                continue
            start = self._prefix_length(ids, turns[:index], add_generation_prompt=True)
            stop = self._prefix_length(ids, turns[: index + 1], add_generation_prompt=False)
            for position in range(start, self._after_end_token(ids, start, stop)):
                mask[position] = True
        return LabelledRow(ids, tuple(mask))

    def _prefix_length(
        self, ids: tuple[int, ...], turns: Sequence[Turn], *, add_generation_prompt: bool
    ) -> int:
        """Number of tokens of `turns` rendered alone, checked to be how `ids` begins."""
        text = self._render(as_messages(turns), add_generation_prompt=add_generation_prompt)
        prefix = self._encode(text)
        if ids[: len(prefix)] == prefix:
            return len(prefix)
        same = sum(
            1
            for _ in itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(ids, prefix, strict=False)
            )
        )
        raise TemplateError(
            f"the chat template renders the first {len(turns)} turns of a conversation differently "
            f"when more follow: after {self.decode(ids[:same])[-40:]!r} there is "
            f"{self.decode(ids[same : same + 8])!r} instead of "
            f"{self.decode(prefix[same : same + 8])!r}. Loss masks would be wrong; give the base a "
            "template that only appends"
        )

    def _after_end_token(self, ids: tuple[int, ...], start: int, stop: int) -> int:
        for position in range(stop - 1, start - 1, -1):
            if ids[position] in self._special_ids:
                return position + 1
        raise TemplateError(
            f"the chat template ends no answer with a special token (it writes "
            f"{self.decode(ids[start:stop])[-40:]!r}), so the model couldn't learn to stop"
        )

    def _render(
        self, messages: list[dict[str, str]] | list[Any], *, add_generation_prompt: bool
    ) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages,
                    chat_template=self._template_text,
                    add_generation_prompt=add_generation_prompt,
                    tokenize=False,
                )
            )
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            raise TemplateError(f"the chat template refuses the roles {roles}: {error}") from error

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))
