"""Log probabilities of tokens, from raw logits."""

import numpy as np
from numpy.typing import NDArray

from server.core.logprobs import TokenLogprobs

Floats = NDArray[np.float32]


def token_logprobs(
    logits_V: Floats, token_id: int, num_top: int, *, listed_V: Floats | None = None
) -> TokenLogprobs:
    """log softmax of `logits_V` at `token_id` and at the `num_top` best tokens.

    The best are those of `listed_V`, in which ids that are never listed are -inf.
    """
    listed_V = logits_V if listed_V is None else listed_V
    best = np.float32(logits_V.max())
    total = np.exp(logits_V - best).sum(dtype=np.float64)
    log_total = float(best) + float(np.log(total))
    chosen = logits_V[token_id]
    return TokenLogprobs(
        token_id,
        float(chosen) - log_total,
        1 + int(np.count_nonzero(listed_V > chosen)),
        tuple((int(i), float(logits_V[i]) - log_total) for i in _best(listed_V, num_top)),
    )


def _best(logits_V: Floats, count: int) -> NDArray[np.intp]:
    """Ids of the best tokens, best first; ties go to the lower id."""
    if count == 0:
        return np.zeros(0, np.intp)
    count = min(count, len(logits_V))
    least = np.partition(logits_V, -count)[-count]
    ids = np.flatnonzero(logits_V >= least)
    return ids[np.argsort(-logits_V[ids], kind="stable")][:count]
