"""Mixtures of experts with a LoRA on the experts' own weights, each row of a step its own.

transformers keeps the experts of a layer as 3-D parameters of one module, and PEFT wraps such a
parameter with factors for all experts at once (`target_parameters`): A [experts * r, in] expert
after expert, B [out, r * experts] with the experts innermost.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from server.model.adapter_pages.bank import Resident
from server.model.adapter_pages.special_parts import ExpertFactors
from server.model.forward.step_context import StepContext
from server.model.step.step_extras import SpecialRow


class AdaptedExperts:
    """Stands in for the `forward` of a layer's experts; without adapters on them that one runs.

    Each expert computes the tokens that chose it, as the modelling code does; to its two products
    the factors of each row's adapters are added, summed in float32.
    """

    def __init__(self, name: str, module: nn.Module, context: StepContext) -> None:
        self._name = name
        self._module: Any = module
        self._forward = module.forward
        self._context = context

    def install(self) -> None:
        """From here on the experts' module is called through this."""
        self._module.forward = self

    def __call__(
        self, hidden_TH: torch.Tensor, choices_TK: torch.Tensor, weights_TK: torch.Tensor
    ) -> torch.Tensor:
        """[T, hidden] to the same: the weighted sum over each token's experts."""
        extras = self._context.extras
        rows = [] if extras is None else [r for r in extras.rows if self._touches(r)]
        if not rows:
            output: torch.Tensor = self._forward(hidden_TH, choices_TK, weights_TK)
            return output
        experts = self._module
        out_TH = torch.zeros_like(hidden_TH, dtype=torch.float32)
        for expert in range(experts.num_experts):
            tokens, choice = torch.where(choices_TK == expert)
            if len(tokens):
                outputs = self._expert(expert, hidden_TH[tokens], tokens, rows)
                outputs = outputs * weights_TK[tokens, choice, None]
                out_TH.index_add_(0, tokens, outputs.float())
        return out_TH.to(hidden_TH.dtype)

    def _expert(
        self, expert: int, inputs: torch.Tensor, tokens: torch.Tensor, rows: list[SpecialRow]
    ) -> torch.Tensor:
        experts = self._module
        first = "gate_up_proj" if experts.has_gate else "up_proj"
        inner = self._product(first, expert, inputs, tokens, rows)
        inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
        outputs = self._product("down_proj", expert, inner, tokens, rows)
        if experts.has_post_expert_norm:
            outputs = experts.post_expert_norm(outputs)
        return outputs

    def _product(
        self,
        parameter: str,
        expert: int,
        inputs: torch.Tensor,
        tokens: torch.Tensor,
        rows: list[SpecialRow],
    ) -> torch.Tensor:
        experts = self._module
        weight = getattr(experts, parameter)[expert]
        bias = getattr(experts, f"{parameter}_bias")[expert] if experts.has_bias else None
        out = linear(inputs, weight.T if experts.is_transposed else weight, bias)
        for row in rows:
            mine = (tokens >= row.tokens.start) & (tokens < row.tokens.stop)
            chosen = mine.nonzero().flatten()
            if len(chosen):
                delta = self._delta(parameter, expert, inputs[chosen], row)
                out[chosen] = (out[chosen].float() + delta).to(out.dtype)
        return out

    def _delta(
        self, parameter: str, expert: int, inputs: torch.Tensor, row: SpecialRow
    ) -> torch.Tensor | float:
        total: torch.Tensor | float = 0.0
        for resident, scale in row.members:
            factors = resident.parts.experts.get((self._name, parameter))
            if factors is not None:
                total = total + _factors_of(resident, factors, expert, inputs, scale)
        return total

    def _touches(self, row: SpecialRow) -> bool:
        return any(
            module == self._name for member, _ in row.members for module, _ in member.parts.experts
        )


def _factors_of(
    resident: Resident, factors: ExpertFactors, expert: int, inputs: torch.Tensor, scale: float
) -> torch.Tensor:
    """float32 [tokens, out] of one adapter, through its rows for one expert."""
    index = torch.arange(factors.rank, device=inputs.device) + expert * factors.rank
    a_RK = resident.table(factors.a).rows(index)
    b_RN = resident.table(factors.b).rows(index)
    h = (inputs.to(a_RK.dtype) @ a_RK.T).float() * (scale * factors.factor)
    delta: torch.Tensor = (h.to(b_RN.dtype) @ b_RN).float()
    return delta
