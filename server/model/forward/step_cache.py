"""The cache that a model is handed for a step: it holds nothing, and knows who asked for what.

Keys and values go through unchanged, since our attention puts them into the paged cache; states
are kept row by row (`server.model.forward.row_by_row`), never here.
"""

from typing import Any

import torch
from transformers import Cache, DynamicCache


class StepCache(Cache):  # type: ignore[misc]
    """Passes keys and values on."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of the step's own tokens; attention finds the earlier ones."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions are always passed."""
        return 0

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        """False: a row's own cache knows."""
        return False


class ProbeCache(StepCache):
    """A `StepCache` for one row that also notes which layers use it.

    `key_layers` are the layers that handed over keys and values; `state_users` the innermost
    modules that asked for a state, as `modules` (the stack of running modules) said at the time.
    """

    def __init__(self, config: Any, modules: list[str]) -> None:
        super().__init__()
        self._states = DynamicCache(config=config)
        self._modules = modules
        self.key_layers: set[int] = set()
        self.state_users: set[str] = set()

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `StepCache.update`."""
        self.key_layers.add(layer_idx)
        return key_states, value_states

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """The state that a row has; notes the layer."""
        state: torch.Tensor | None = self._noted().get_conv_state(layer_idx, state_idx)
        return state

    def update_conv_state(
        self, conv_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Take over the new state; notes the layer."""
        return self._noted().update_conv_state(conv_states, layer_idx, *args, **kwargs)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """The state that a row has; notes the layer."""
        state: torch.Tensor | None = self._noted().get_recurrent_state(layer_idx, state_idx)
        return state

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Take over the new state; notes the layer."""
        return self._noted().update_recurrent_state(recurrent_states, layer_idx, *args, **kwargs)

    def is_recording_past(self, *args: Any) -> Any:
        """As transformers' own cache."""
        return self._states.is_recording_past(*args)

    def _noted(self) -> Any:
        self.state_users.add(self._modules[-1])
        return self._states
