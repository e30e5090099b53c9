"""Modules of the base with the step's adapters added: norms, the token embedding, the head."""

import torch
from torch import nn

from server.model.adapter_pages.page_layout import VectorPlace
from server.model.forward.step_context import StepContext


class AdaptedModule(nn.Module):
    """Keeps `base`; some modelling code asks a module for its weight, a linear for its dtype."""

    def __init__(self, base: nn.Module, context: StepContext) -> None:
        super().__init__()
        self.base = base
        self._context = context

    @property
    def weight(self) -> torch.Tensor:
        """The base's."""
        weight = self.base.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's; None where it has none."""
        bias = getattr(self.base, "bias", None)
        assert bias is None or isinstance(bias, torch.Tensor)
        return bias


class AdapterNorm(AdaptedModule):
    """A norm whose bias adapters may change."""

    def __init__(self, base: nn.Module, place: VectorPlace, context: StepContext) -> None:
        super().__init__(base, context)
        self._place = place

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[1, T, ..., N] to the same."""
        out: torch.Tensor = self.base(inputs)
        extras = self._context.extras
        if extras is not None and extras.vectors is not None:
            extras.vectors.apply(out[0], self._place)
        return out


class AdapterEmbedding(AdaptedModule):
    """The token embedding, with the rows' own tokens and virtual tokens."""

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """int64 [1, T] to [1, T, hidden]."""
        out: torch.Tensor = self.base(token_ids)
        extras = self._context.extras
        if extras is not None:
            scale = getattr(self.base, "embed_scale", 1.0)  # Gemma's, within the module
            for row in extras.embedding_rows():
                extras.change_embeddings(
                    out[0, row.tokens], row, inner_scale=float(scale), outer_scale=1.0
                )
        return out


class AdapterHead(AdaptedModule):
    """The output head, with the rows' own heads."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, S, hidden] to logits [1, S, vocabulary]."""
        out: torch.Tensor = self.base(hidden)
        extras = self._context.extras
        if extras is not None:
            for sample, row in extras.head_rows():
                extras.change_logits(out[0, sample], hidden[0, sample], row)
        return out
