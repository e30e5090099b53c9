"""What laying out an adapter needs to know of the base model it is for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from adapters.base.bitsandbytes_import import import_bitsandbytes
from server.model.adapter_pages.experts_shape import ExpertsShape, experts_shapes
from server.model.geometry import AttentionGeometry


class BaseWeights(Protocol):
    """The base's linear weights, as the forward uses them. Reading changes nothing."""

    def weight(self, module: str) -> torch.Tensor:
        """float32 [N, K], dequantised."""
        ...

    def bias(self, module: str) -> torch.Tensor | None:
        """float32 [N], of a linear or a norm."""
        ...

    def rows(self, module: str, token_ids: torch.Tensor) -> torch.Tensor:
        """float32 [tokens, hidden] of the token embedding or the output head."""
        ...


@dataclass(frozen=True)
class BaseFacts:
    """`is_tied`: the output head is the token embedding. `input_scaled` are the linears whose
    inputs a backend can scale for one row alone; None is all. `takes_prefix`: a trained prefix of
    keys and values can stand before a sequence. `experts` are the layers of experts by name."""

    embedding: str
    head: str
    vocab_size: int
    hidden_size: int
    is_tied: bool
    geometry: AttentionGeometry
    input_scaled: frozenset[str] | None = None
    takes_prefix: bool = True
    experts: Mapping[str, ExpertsShape] = field(default_factory=dict)


def base_facts(model: Any, geometry: AttentionGeometry, *, takes_prefix: bool = True) -> BaseFacts:
    """Read a transformers causal LM, before anything in it is wrapped."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    return BaseFacts(
        embedding=names[id(embedding)],
        head=names[id(head)],
        vocab_size=int(embedding.weight.shape[0]),
        hidden_size=int(embedding.weight.shape[1]),
        is_tied=head.weight is embedding.weight,
        geometry=geometry,
        takes_prefix=takes_prefix,
        experts=experts_shapes(model),
    )


class ModuleWeights:
    """`BaseWeights` of a transformers model, whatever its linears were replaced by."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def weight(self, module: str) -> torch.Tensor:
        """See `BaseWeights.weight`."""
        linear = self._unwrapped(module)
        if hasattr(linear, "float_weight"):
            packed: torch.Tensor = linear.float_weight()
            return packed
        state = getattr(linear.weight, "quant_state", None)
        if state is not None:
            dequantize = import_bitsandbytes().functional.dequantize_4bit
            weight: torch.Tensor = dequantize(linear.weight.data, state)
        else:
            weight = linear.weight.data
        weight = weight.float()
        return weight.T if type(linear).__name__ == "Conv1D" else weight

    def bias(self, module: str) -> torch.Tensor | None:
        """See `BaseWeights.bias`."""
        bias: Any = getattr(self._unwrapped(module), "bias", None)
        return None if bias is None else bias.detach().float()

    def rows(self, module: str, token_ids: torch.Tensor) -> torch.Tensor:
        """See `BaseWeights.rows`."""
        linear = self._unwrapped(module)
        if hasattr(linear, "float_weight"):
            return self.weight(module)[token_ids]
        weight: torch.Tensor = linear.weight.data
        return weight[token_ids.to(weight.device)].float()

    def _unwrapped(self, name: str) -> Any:
        module: Any = self._model.get_submodule(name)
        return getattr(module, "base", module)
