"""Which rows are held out: drawn by prompt, so that none is on both sides."""

import hashlib
import random
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.conversation import Conversation
from trainer.errors import DataError

Mask = NDArray[np.bool_]


class PromptGroups:
    """Numbers the prompts of a file: 8 bytes a row."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, conversation: Conversation) -> None:
        """The next row of the file."""
        digest = hashlib.blake2b(conversation.held_out_key.encode(), digest_size=8).digest()
        self._hashes.append(int.from_bytes(digest))

    def numbers(self) -> NDArray[np.int64]:
        """Of each row which prompt it has: numbered from 0 in the order that they come in."""
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))
        numbers: NDArray[np.int64] = order[inverse]
        return numbers


@dataclass(frozen=True, slots=True)
class Split:
    """Of each row whether it is held out, and whether it is trained on; some are neither."""

    held_out: Mask
    trained: Mask
    num_prompts: int


def draw(num_rows: int, count: int, seed: int) -> Mask:
    """Of each row whether it is one of `count` that are drawn, or of all if there are fewer."""
    drawn = np.zeros(num_rows, dtype=np.bool_)
    drawn[random.Random(seed).sample(range(num_rows), min(count, num_rows))] = True
    return drawn


def split_by_prompt(
    groups: PromptGroups, count: int, maximum: int, seed: int, source: str
) -> Split:
    """Hold out about `count` rows: all that a drawn prompt has, and of them at most `maximum`.

    Raises `DataError` when all rows have one prompt: then none can be held out.
    """
    numbers = groups.numbers()
    num_rows = len(numbers)
    if not num_rows:
        return Split(np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.bool_), 0)
    num_prompts = int(numbers.max()) + 1
    if num_prompts == 1:
        those = "the one row" if num_rows == 1 else f"all {num_rows} rows"
        raise DataError(
            f"{those} of {source} left after cleaning have one prompt, so none can be held out "
            "that isn't trained on too: name a file of other rows in data.eval"
        )
    wanted = max(1, round(count * num_prompts / num_rows))
    prompts = draw(num_prompts, min(wanted, num_prompts - 1), seed)
    drawn = prompts[numbers]
    held_out = drawn.copy()
    held_out[np.flatnonzero(drawn)[maximum:]] = False
    return Split(held_out, ~drawn, int(prompts.sum()))
