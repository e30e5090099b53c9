"""Log probabilities of a prompt's own tokens, from the logits of the tokens before them."""

from collections.abc import Sequence

import numpy as np
import torch

from server.core.batch import ScheduledRow
from server.core.logprobs import TokenLogprobs
from server.model.sampling.logprobs import token_logprobs

PromptScores = dict[int, tuple[TokenLogprobs, ...]]


def split_scores(
    logits_SV: torch.Tensor, rows: Sequence[ScheduledRow]
) -> tuple[torch.Tensor, PromptScores]:
    """The logits of the rows that sample, and the scores of those that score, by sequence id.

    `logits_SV` holds `num_logits` rows for each of `rows`, in order.
    """
    if not any(row.scores for row in rows):
        return logits_SV, {}
    scores: PromptScores = {}
    sampled: list[int] = []
    first = 0
    for row in rows:
        end = first + row.num_logits
        if row.scores:
            scores[row.sequence_id] = _scores(logits_SV[first:end], row)
        if row.samples:
            sampled.append(end - 1)
        first = end
    return logits_SV[sampled], scores


def _scores(logits_TV: torch.Tensor, row: ScheduledRow) -> tuple[TokenLogprobs, ...]:
    """Of the tokens that follow the row's own; virtual tokens and the first real one have none."""
    num_prompt = len(row.history) - row.num_generated
    host: np.ndarray = logits_TV.float().cpu().numpy()
    num_top = row.sampling.prompt_logprobs or 0
    return tuple(
        token_logprobs(logits_V, row.history[position], num_top)
        for position, logits_V in enumerate(host, row.start + 1)
        if position < num_prompt and row.history[position - 1] >= 0
    )
