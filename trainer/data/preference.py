"""Preference rows as examples: which of two answers is better (dpo, orpo), or whether one answer
is good (kto). The rules of `data.cleaning` hold for both answers, and drop a row as a whole.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass

from trainer.data.conversation import Conversation, Turn
from trainer.data.examples import Example, Examples
from trainer.data.formats.formats import RowFormat
from trainer.data.formats.preference_formats import JUDGED_FORMATS, PAIR_FORMATS
from trainer.data.judged import DataRow
from trainer.data.labels import ConversationLabeller, LabelledRow
from trainer.data.row_task import Matched
from trainer.data.spool import PlacedRow


@dataclass(frozen=True, slots=True)
class PreferenceExample(Example):
    """`row` is the chosen, or the judged, answer after its prompt; only that answer carries loss.

    `other` is the rejected answer after the same prompt; for a judged answer, the answer of
    another row after this prompt, by which KTO estimates how far the model has moved. `is_good`
    is what was judged; chosen answers are good.
    """

    other: LabelledRow
    is_good: bool = True

    def __len__(self) -> int:
        """Tokens of both, which go through the model together."""
        return len(self.row) + len(self.other)

    @property
    def longest(self) -> int:
        return max(len(self.row), len(self.other))


class _PreferenceRows:
    """What pairs and judged answers have in common."""

    is_strict = True
    formats: Sequence[RowFormat]

    def examples(
        self, row: DataRow, other: Turn | None, labeller: ConversationLabeller
    ) -> tuple[Example, ...]:
        assert other is not None
        conversation = row.conversation
        rejected = Conversation((*conversation.prompt, other), conversation.tools)
        return (
            PreferenceExample(
                conversation,
                _answer_row(labeller, conversation),
                _answer_row(labeller, rejected),
                row.is_good is not False,
            ),
        )

    def planned(self, train: Examples) -> Sequence[Sized]:
        return [range(len(example)) for example in preferences(train)]


class PairRows(_PreferenceRows):
    """Two answers to one prompt, of which one was preferred."""

    formats = PAIR_FORMATS
    hint = ""

    def __init__(self, objective: str) -> None:
        self.complaint = f"are no preferences; objective {objective} wants prompt, chosen, rejected"

    def match(self, rows: Iterable[PlacedRow]) -> Iterator[Matched]:
        return ((placed, placed[1].rejected) for placed in rows)


class JudgedRows(_PreferenceRows):
    """Single answers that were judged good or bad."""

    formats = JUDGED_FORMATS
    hint = ""
    complaint = "are no preferences; objective kto wants completion, label, prompt"

    def match(self, rows: Iterable[PlacedRow]) -> Iterator[Matched]:
        """KTO's stray answer is that of the row before, so that all answers are used alike."""
        listed = list(rows)
        for index, placed in enumerate(listed):
            yield placed, listed[index - 1][1].conversation.turns[-1]


def preferences(examples: Sequence[Example]) -> list[PreferenceExample]:
    """The examples of a preference run, as what they are."""
    found = [example for example in examples if isinstance(example, PreferenceExample)]
    assert len(found) == len(examples)
    return found


def _answer_row(labeller: ConversationLabeller, conversation: Conversation) -> LabelledRow:
    """Prompt and answer, of which only that last answer carries loss."""
    labelled = labeller.label(conversation)[-1].row
    start = len(labeller.prompt_ids(conversation.prompt, conversation.tools))
    mask = tuple(
        carries and position >= start for position, carries in enumerate(labelled.carries_loss)
    )
    return LabelledRow(labelled.token_ids, mask)
