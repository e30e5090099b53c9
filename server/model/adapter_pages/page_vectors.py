"""The float32 vectors in a vector page, and the bits that say which of them there are."""

import torch

from server.model.adapter_pages.page_layout import VectorPlace

_FLOAT_BYTES = 4

OUTPUT_BIT = 1
"""The module has an output scale and bias: out += scale * (c * out + d), `out` being the base's."""

INPUT_BIT = 2
"""The module has an input scale: the base's inputs become x + scale * e * x."""


def vector_views(
    pages_PE: torch.Tensor, place: VectorPlace
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The three float32 vectors of `place` in pages of any floating dtype."""
    floats = pages_PE.view(torch.float32)
    start = place.offset * pages_PE.element_size() // _FLOAT_BYTES
    bias = start + place.out_features
    inputs = bias + place.out_features
    end = inputs + place.in_features
    return floats[:, start:bias], floats[:, bias:inputs], floats[:, inputs:end]
