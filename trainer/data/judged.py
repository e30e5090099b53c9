"""One row of training data, whatever the objective: a conversation, and what was judged of it."""

import json
from dataclasses import dataclass

from trainer.data.conversation import Conversation, Turn, parse_key, turns_key


@dataclass(frozen=True, slots=True)
class DataRow:
    """A conversation up to its last answer.

    Of a pair that answer is the chosen one, and `rejected` the other to the same prompt. `is_good`
    is what was judged of a single answer; None where nothing was.
    """

    conversation: Conversation
    rejected: Turn | None = None
    is_good: bool | None = None

    @property
    def is_judged(self) -> bool:
        """Whether it is a preference."""
        return self.rejected is not None or self.is_good is not None

    @property
    def key(self) -> str:
        """Canonical JSON; two rows are exact duplicates if their keys are equal."""
        return self.judged.key

    @property
    def judged(self) -> Conversation:
        """All of it as turns, for comparing rows: equal rows are duplicates, near ones nearly."""
        whole = self.conversation
        if not self.is_judged:
            return whole
        verdict = str(self.is_good is not False)
        rejected = self.rejected or Turn("", "")
        other = Turn(verdict, rejected.content, rejected.tool_calls)
        return Conversation((*whole.turns, other), whole.tools)

    def document(self) -> str:
        """One line of JSON that `parse_row` reads."""
        rejected = None if self.rejected is None else turns_key([self.rejected])
        return json.dumps([self.conversation.key, rejected, self.is_good], ensure_ascii=False)


def parse_row(line: str) -> DataRow:
    """The row whose `document` this is."""
    key, rejected, is_good = json.loads(line)
    other = None if rejected is None else parse_key(rejected).turns[0]
    return DataRow(parse_key(key), other, is_good)
