"""What each running sequence carries from step to step in transformers' own cache objects.

A convolution's last inputs, a recurrent state, and, where transformers' own attention runs, keys
and values: by the state slot that the scheduler granted.
"""

from typing import Any

from transformers import DynamicCache

from server.model.step.step_inputs import StepInputs


class RowStates:
    """One cache a slot, and how many tokens of its sequence it has seen.

    A step that fails in the middle leaves the states of its rows unusable: going on with one of
    them raises `RuntimeError`, instead of computing on a state of another moment.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._caches: dict[int, Any] = {}
        self._num_tokens: dict[int, int] = {}

    def open(self, step: StepInputs) -> list[Any]:
        """The cache of each row of `step`, new ones for rows that start; `close` must follow."""
        caches = []
        for slot, start in zip(step.state_slots, step.starts, strict=True):
            if start == 0:
                self._caches[slot] = DynamicCache(config=self._config)
            elif self._num_tokens.get(slot) != start:
                raise RuntimeError(
                    f"the state in slot {slot} is at token {self._num_tokens.get(slot)} of its "
                    f"sequence, not at {start}: the step before it failed"
                )
            caches.append(self._caches[slot])
        for slot in step.state_slots:
            self._num_tokens[slot] = -1
        return caches

    def close(self, step: StepInputs) -> None:
        """The step's tokens are in the states of its rows."""
        for slot, start, length in zip(
            step.state_slots, step.starts, step.row_lengths, strict=True
        ):
            self._num_tokens[slot] = start + length

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors that are held."""
        return sum(cache_bytes(cache) for cache in self._caches.values())


def cache_bytes(cache: Any) -> int:
    """Bytes of keys, values and states in a transformers cache."""
    total = 0
    for layer in cache.layers:
        for name in ("keys", "values", "indexer_keys"):
            tensor = getattr(layer, name, None)
            total += 0 if tensor is None else tensor.nbytes
        for name in ("conv_states", "recurrent_states"):
            states = getattr(layer, name, None) or {}
            total += sum(s.nbytes for s in states.values() if s is not None)
    return total
