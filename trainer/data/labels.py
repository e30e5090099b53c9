"""Which tokens of a conversation carry loss: the assistant's, and the token that ends its turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.data.chat_rendering import ChatRenderer, RenderedRow
from trainer.data.conversation import Conversation, Turn
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


@dataclass(frozen=True, slots=True)
class LabelledConversation:
    """A row and the part of its conversation that is in it, the last answer being its end."""

    conversation: Conversation
    row: LabelledRow


class ConversationLabeller:
    """Renders conversations with a chat template and masks all but what the model must write.

    The prompt of an answer is rendered exactly as a server would render it (generation prompt
    included); what the template adds when the answer is there, up to and with the special token
    that ends it, carries loss. `trainer.data.chat_rendering` finds it as text, this class as
    tokens. `tokenizer` is a transformers tokenizer; `template_text` a Jinja chat template, which
    plain text does without.
    """

    def __init__(self, tokenizer: Any, template_text: str) -> None:
        self._tokenizer = tokenizer
        self._template_text = template_text
        special = set(tokenizer.all_special_tokens) | {
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        }
        self._renderer = ChatRenderer(tokenizer, template_text, frozenset(special))

    def prompt_ids(self, turns: Sequence[Turn], tools: str = "") -> tuple[int, ...]:
        """Tokens of a prompt, ready for the answer, as a server computes them."""
        self._check_template()
        return self._encode(self._renderer.prompt(turns, tools))

    def message_ids(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """`prompt_ids` for role and content mappings."""
        self._check_template()
        copies = [dict(message) for message in messages]
        return self._encode(self._renderer.render_messages(copies, "", add_generation_prompt=True))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, special ones included."""
        return str(self._tokenizer.decode(list(token_ids), clean_up_tokenization_spaces=False))

    def label(self, conversation: Conversation) -> tuple[LabelledConversation, ...]:
        """Tokens and loss masks of a clean conversation; every answer carries loss in one row.

        One row where the template only appends; one for each answer whose history it rewrites
        later. Raises `TemplateError` when the template doesn't show where an answer begins or
        ends, `RowError` for what this template can't honour.
        """
        if conversation.is_text:
            return (LabelledConversation(conversation, self._text_row(conversation.answer)),)
        self._check_template()
        rows = []
        for rendered in self._renderer.rows(conversation):
            turns = conversation.turns[: rendered.last_turn + 1]
            part = Conversation(turns, conversation.tools)
            rows.append(LabelledConversation(part, self._row(rendered)))
        return tuple(rows)

    def _row(self, rendered: RenderedRow) -> LabelledRow:
        ids = self._encode(rendered.text)
        cuts = [cut for span in rendered.spans for cut in span]
        lengths = [self._prefix_length(ids, rendered.text, cut) for cut in cuts]
        found = [length for length in lengths if length is not None]
        if len(found) < len(lengths):
            return self._row_of_pieces(rendered, ids)
        mask = [False] * len(ids)
        for start, stop in zip(found[::2], found[1::2], strict=True):
            mask[start:stop] = [True] * (stop - start)
        return LabelledRow(ids, tuple(mask))

    def _prefix_length(self, ids: tuple[int, ...], text: str, cut: int) -> int | None:
        """Number of tokens of `text[:cut]`; None when a token lies across the cut."""
        if cut == len(text):
            return len(ids)
        prefix = self._encode(text[:cut])
        return len(prefix) if ids[: len(prefix)] == prefix else None

    def _row_of_pieces(self, rendered: RenderedRow, whole: tuple[int, ...]) -> LabelledRow:
        """Each piece tokenised by itself, as prompt and answer are when a server continues one."""
        ids: list[int] = []
        mask: list[bool] = []
        position = 0
        for start, stop in rendered.spans:
            for piece, carries_loss in (
                (rendered.text[position:start], False),
                (rendered.text[start:stop], True),
            ):
                piece_ids = self._encode(piece)
                ids += piece_ids
                mask += [carries_loss] * len(piece_ids)
            position = stop
        assert position == len(rendered.text), "a row ends with its last answer"
        if self.decode(ids) != self.decode(whole):
            raise TemplateError(
                f"one token lies across the border of prompt and answer in "
                f"{rendered.text[-60:]!r}, and tokenised apart the two read differently. Remove "
                "white space at the edges of the template's answers"
            )
        return LabelledRow(tuple(ids), tuple(mask))

    def _text_row(self, text: str) -> LabelledRow:
        """All tokens of plain text carry loss, and the end of text behind it too."""
        ids = list(self._tokenizer.encode(text))
        end = self._tokenizer.eos_token_id
        if end is not None and (not ids or ids[-1] != end):
            ids.append(end)
        return LabelledRow(tuple(ids), (True,) * len(ids))

    def _check_template(self) -> None:
        if not self._template_text:
            raise TemplateError("the base has no chat template, so conversations can't be rendered")

    def _encode(self, text: str) -> tuple[int, ...]:
        return self._renderer.encode(text)
