"""A base linear layer with the step's adapters added to its output."""

import torch
from torch import nn

from server.model.adapter_pages.bank import AdapterBank
from server.model.adapter_pages.page_layout import ModulePlace, VectorPlace
from server.model.forward.adapter_modules import AdaptedModule
from server.model.forward.step_context import StepContext


class AdapterLinear(AdaptedModule):
    """Wraps `base` (a linear of any kind) and adds each token's adapters, exactly summed."""

    def __init__(
        self,
        base: nn.Module,
        place: ModulePlace,
        vectors: VectorPlace,
        bank: AdapterBank,
        context: StepContext,
    ) -> None:
        super().__init__(base, context)
        self._place = place
        self._vectors = vectors
        self._bank = bank

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., K] -> [..., N]."""
        work, extras = self._context.work, self._context.extras
        vectors = None if extras is None else extras.vectors
        if vectors is None:
            out: torch.Tensor = self.base(inputs)
        else:
            flat = inputs.reshape(-1, inputs.shape[-1])
            scaled = vectors.scale_inputs(flat, self._vectors)
            out = self.base(inputs if scaled is flat else scaled.view(inputs.shape))
            vectors.apply(out.view(-1, out.shape[-1]), self._vectors)
        if work is not None:
            work.add(
                out.view(-1, out.shape[-1]),
                inputs.reshape(-1, inputs.shape[-1]),
                self._bank.factors(self._place),
                self._bank.module_scales,
                self._place,
            )
        return out
