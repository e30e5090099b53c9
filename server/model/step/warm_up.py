"""One step before the first request: it warms caches up, and tells how long steps take here."""

import time

from server.core.batch import ScheduledBatch, ScheduledRow
from server.core.request import SamplingParams
from server.model.step.runner import TorchRunner

_NUM_TOKENS = 16

_NUM_TRIES = 4
"""The fastest counts: how busy the machine happens to be just now is not to be multiplied."""


def full_step_seconds(
    runner: TorchRunner,
    *,
    max_batch_tokens: int,
    max_model_len: int,
    block_size: int,
    keeps_states: bool = False,
) -> float:
    """Seconds of a step of `max_batch_tokens` tokens at the end of a full window, from above.

    Measured on fewer tokens, after one unmeasured step, and scaled up as if none of it were a
    step's fixed price. Writes to block 0, which nobody has yet. A model that keeps states computes
    the first tokens of a window instead: there is none to go on from.
    """
    num_tokens = min(_NUM_TOKENS, max_batch_tokens, max_model_len)
    block_ids = (0,) * -(-max_model_len // block_size)
    row = ScheduledRow(
        sequence_id=-1,
        token_ids=(0,) * num_tokens,
        start=0 if keeps_states else max_model_len - num_tokens,
        block_ids=block_ids,
        work=(),
        sampling=SamplingParams(max_tokens=1),
        samples=True,
        seed=0,
        num_generated=0,
    )
    runner.logits(ScheduledBatch((row,)))
    seconds = []
    for _ in range(_NUM_TRIES):
        start = time.perf_counter()
        runner.logits(ScheduledBatch((row,)))
        seconds.append(time.perf_counter() - start)
    return min(seconds) * max_batch_tokens / num_tokens
