"""The vectors of one step's adapters, applied to a module's inputs and outputs in plain torch.

Axes: T tokens of the step, I items (a token and one vector page of its row), K inputs, N outputs.
"""

from collections.abc import Sequence

import torch

from server.model.adapter_pages.bank import AdapterBank
from server.model.adapter_pages.page_layout import VectorPlace
from server.model.adapter_pages.page_vectors import INPUT_BIT, OUTPUT_BIT


class VectorWork:
    """Exact sums over the members of each row's stack: float32, rounded once."""

    def __init__(
        self,
        bank: AdapterBank,
        items: Sequence[tuple[slice, int, float]],
        *,
        num_tokens: int,
    ) -> None:
        """`items` are a row's tokens, a vector page and its scale."""
        self._bank = bank
        self._num_tokens = num_tokens
        device = bank.pages.device
        self._tokens = torch.cat([torch.arange(s.start, s.stop) for s, _, _ in items]).to(device)
        lengths = torch.tensor([s.stop - s.start for s, _, _ in items])
        pages = torch.tensor([page for _, page, _ in items]).repeat_interleave(lengths)
        self._host_pages = pages
        self._pages = pages.to(device)
        scales = torch.tensor([scale for _, _, scale in items], dtype=torch.float32)
        self._scales = scales.repeat_interleave(lengths).to(device)

    def scale_inputs(self, inputs_TK: torch.Tensor, place: VectorPlace) -> torch.Tensor:
        """What the base linear gets: the same tensor when no row scales its inputs."""
        chosen = self._chosen(place, INPUT_BIT)
        if chosen is None:
            return inputs_TK
        scale_TK = self._summed(self._bank.vectors(place)[2], chosen)
        return (inputs_TK.float() * (1.0 + scale_TK)).to(inputs_TK.dtype)

    def apply(self, out: torch.Tensor, place: VectorPlace) -> None:
        """out [T, ..., N], the base's output, becomes out + scale * out + bias in place."""
        chosen = self._chosen(place, OUTPUT_BIT)
        if chosen is None:
            return
        scale, bias, _ = self._bank.vectors(place)
        shape = (self._num_tokens, *(1,) * (out.dim() - 2), place.out_features)
        scale_TN = self._summed(scale, chosen).view(shape)
        bias_TN = self._summed(bias, chosen).view(shape)
        out.copy_(out.float() * (1.0 + scale_TN) + bias_TN)

    def _chosen(self, place: VectorPlace, bit: int) -> torch.Tensor | None:
        """Indices of the items whose page has such a vector for the module."""
        flags = self._bank.vector_flags[self._host_pages, place.index] & bit
        chosen = flags.nonzero().flatten()
        return chosen.to(self._pages.device) if len(chosen) else None

    def _summed(self, vectors_PX: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Sum over each token's chosen items of scale * vector: [T, X]."""
        values = vectors_PX[self._pages[chosen]] * self._scales[chosen, None]
        total = torch.zeros(self._num_tokens, values.shape[1], device=values.device)
        return total.index_add_(0, self._tokens[chosen], values)
