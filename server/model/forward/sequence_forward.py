"""transformers' own forward, a sequence at a time: an oracle, and a way for what has no other.

Exact for whatever `generate` computes - masks of a layer's own, shared keys, rotary embeddings that
change with the length - and slow in a batch, since each sequence reads all weights.
"""

import inspect
from typing import Any

import torch
from transformers import DynamicCache

from server.core.errors import UnsupportedModelError
from server.model.forward.row_states import cache_bytes

PROBED_TOKENS = (24, 17)
"""The lengths of two sequences that are run through a model to see what it does."""

_CACHE_NAMES = ("past_key_values", "cache_params")


class ForwardArguments:
    """The keyword arguments of a model's forward that a step passes, as far as it takes them.

    `attention` is the attention implementation that the model was loaded with: some compute another
    function with another one.
    """

    def __init__(self, model: Any) -> None:
        parameters = inspect.signature(model.forward).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        self._names = None if takes_any else frozenset(parameters)
        self.attention = str(model.config._attn_implementation)
        self.cache_name = next((name for name in _CACHE_NAMES if name in parameters), None)

    def of(self, cache: Any, **arguments: Any) -> dict[str, Any]:
        """`arguments` less what the model doesn't know, and `cache` under the model's name."""
        if self.cache_name is not None:
            arguments[self.cache_name] = cache
        if self._names is None:
            return arguments
        return {name: value for name, value in arguments.items() if name in self._names}


class SequenceForward:
    """Runs pieces of sequences through `model`, each with a cache of its own.

    Raises `UnsupportedModelError` when the model doesn't give a sequence in pieces, beside another,
    the logits that it gives it whole and alone. `takes_pieces` says whether it goes on with several
    tokens at once; where it doesn't they run one by one, as `generate` would run them.
    """

    def __init__(self, model: Any, arguments: ForwardArguments) -> None:
        self._model = model
        self._arguments = arguments
        self._name = model.config.model_type
        if arguments.cache_name is None:
            raise UnsupportedModelError(
                f"{self._name} models can't be served: their forward takes no cache"
            )
        self.takes_pieces = True
        self.use_own_attention()
        self.bytes_per_token = 1  # at least, or nothing would be counted
        device = model.device
        size = int(model.config.get_text_config(decoder=True).vocab_size)
        self.probed = []
        for length in PROBED_TOKENS:
            index = torch.arange(length, device=device)
            self.probed.append((31 * index * index + 17 * index + length) % size)
        self.expected = self._whole()
        self._check()

    def use_own_attention(self) -> None:
        """Let the layers attend as they did when the model was loaded."""
        self._model.set_attn_implementation(self._arguments.attention)

    def run(
        self, token_ids: torch.Tensor, positions: torch.Tensor, cache: Any, keep: torch.Tensor
    ) -> torch.Tensor:
        """Logits [kept tokens, vocabulary] of the next tokens [T] of the sequence in `cache`."""
        if self.takes_pieces or len(token_ids) == 1 or int(positions[0]) == 0:
            return self._piece(token_ids, positions, cache)[keep]
        logits = [
            self._piece(token_ids[i : i + 1], positions[i : i + 1], cache)
            for i in range(len(token_ids))
        ]
        return torch.cat(logits)[keep]

    def _piece(self, token_ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        _reset_dynamic_rope(self._model)
        output = self._model(
            **self._arguments.of(
                cache, input_ids=token_ids[None], position_ids=positions[None], use_cache=True
            )
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _whole(self) -> list[torch.Tensor]:
        """The logits of each probed sequence, run alone and at once."""
        logits = []
        try:
            with torch.inference_mode():
                for ids in self.probed:
                    cache = DynamicCache(config=self._model.config)
                    positions = torch.arange(len(ids), device=ids.device)
                    logits.append(self._piece(ids, positions, cache))
                    self.bytes_per_token = max(1, cache_bytes(cache) // len(ids))
        except Exception as error:
            raise UnsupportedModelError(
                f"{self._name} models can't be served: transformers' own forward fails with "
                f"{error!r}"
            ) from error
        return logits

    def _check(self) -> None:
        """Run the two sequences in pieces and in turns."""
        holders = {
            type(module).__name__
            for module in self._model.modules()
            for value in vars(module).values()
            if isinstance(value, torch.Tensor) and value.dim() > 1
        }
        if holders:
            raise UnsupportedModelError(
                f"{self._name} models can't be served: {', '.join(sorted(holders))} keeps a "
                "sequence's state within the model, where another sequence would go on with it"
            )
        for self.takes_pieces in (True, False):
            try:
                with torch.inference_mode():
                    got = self._in_turns()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong, another way is tried
                reason = f"fails with {error!r}"
                continue
            if all(is_close(a, b) for a, b in zip(got, self.expected, strict=True)):
                return
            reason = "gives other logits than for each of them whole"
        raise UnsupportedModelError(
            f"{self._name} models can't be served: transformers' own forward, over two sequences "
            f"in pieces and in turns, {reason}"
        )

    def _in_turns(self) -> list[torch.Tensor]:
        caches = [DynamicCache(config=self._model.config) for _ in self.probed]
        logits: list[list[torch.Tensor]] = [[] for _ in self.probed]
        for piece in ((0, 7), (7, 16), (16, 17), (17, 24)):
            for i, (ids, cache) in enumerate(zip(self.probed, caches, strict=True)):
                positions = torch.arange(len(ids), device=ids.device)[slice(*piece)]
                if len(positions):
                    keep = torch.arange(len(positions), device=ids.device)
                    logits[i].append(self.run(ids[slice(*piece)], positions, cache, keep))
        return [torch.cat(pieces) for pieces in logits]


def is_close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether logits [T, vocabulary] are equal but for the rounding of their dtype."""
    bound = 1e-3 if expected.dtype == torch.float32 else 0.25
    difference = (got.float() - expected.float()).abs().max()
    return bool(difference <= bound * expected.float().std().clamp(min=1e-6))


def _reset_dynamic_rope(model: Any) -> None:
    """Forget the longest sequence so far: dynamic rotary embeddings would keep its angles."""
    for module in model.modules():
        original = getattr(module, "original_max_seq_len", None)
        if original is None:
            continue
        for name in list(vars(module)):
            prefix = name.removesuffix("original_inv_freq")
            if prefix == name or getattr(module, f"{prefix}max_seq_len_cached", 0) <= original:
                continue
            module.register_buffer(f"{prefix}inv_freq", getattr(module, name), persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", original)
