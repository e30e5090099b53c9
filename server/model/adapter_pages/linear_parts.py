"""One linear's part of an adapter, as factors and vectors over the base's output.

With y = W x + b the base's output, every method is y + delta, exactly:

- LoRA: delta = s B A x; AdaLoRA the same with its singular values in A; a LoRA bias adds s * bias.
- DoRA (arXiv:2402.09353): m = magnitude / |W + s B A| by output; delta = (m - 1) W x + m s B A x,
  that is a scale m - 1 and a bias -(m - 1) b over y, and B's rows times m.
- IA3 (arXiv:2205.05638): delta = (l - 1) y, or for feed-forward inputs W ((l - 1) x).
- A trained bias adds its difference from the base's.
"""

import torch

from adapters.format.adapter_config import AdapterConfig
from adapters.format.lora_config import LoraConfig
from adapters.format.tensor_roles import TensorRole
from server.model.adapter_pages.adapter_tensors import ModuleTensors
from server.model.adapter_pages.base_facts import BaseFacts, BaseWeights
from server.model.adapter_pages.page_builder import PageBuilder
from server.model.adapter_pages.page_layout import ModulePlace, VectorPlace

_NORM_NOISE = 1e-3
"""An untrained DoRA magnitude differs from the norm by rounding, the base's included."""


def add_linear(
    builder: PageBuilder,
    place: ModulePlace,
    vectors: VectorPlace,
    tensors: ModuleTensors,
    config: AdapterConfig,
    base: BaseWeights,
    facts: BaseFacts,
) -> None:
    """Add all of one linear's tensors. Raises `ValueError` for what doesn't fit."""
    if TensorRole.LORA_A in tensors:
        assert isinstance(config, LoraConfig)
        _add_lora(builder, place, vectors, tensors, config, base)
    if TensorRole.IA3 in tensors:
        _add_ia3(builder, vectors, tensors[TensorRole.IA3], facts)
    if TensorRole.BIAS in tensors:
        add_bias(builder, vectors, tensors[TensorRole.BIAS], base)


def add_bias(
    builder: PageBuilder, place: VectorPlace, bias: torch.Tensor, base: BaseWeights
) -> None:
    """A trained bias of a linear or a norm."""
    before = base.bias(place.name)
    builder.add_outputs(place, bias_N=bias.float() - (0.0 if before is None else before))


def _add_lora(
    builder: PageBuilder,
    place: ModulePlace,
    vectors: VectorPlace,
    tensors: ModuleTensors,
    config: LoraConfig,
    base: BaseWeights,
) -> None:
    a, b = tensors[TensorRole.LORA_A], tensors[TensorRole.LORA_B]
    scaling = config.scaling_of(place.name)
    values = tensors.get(TensorRole.SINGULAR_VALUES)
    if values is not None:
        kept = values.flatten() != 0  # the others were pruned
        a, b = (a.float() * values.float())[kept], b[:, kept]
        if not len(a):
            return
    magnitude = tensors.get(TensorRole.MAGNITUDE)
    if magnitude is not None:
        a, b = a.float(), b.float()
        change = _dora_ratio(place, a, b, scaling, magnitude, base) - 1.0
        b = b + change[:, None] * b
        bias = base.bias(place.name)
        shift = None if bias is None else -change * bias
        builder.add_outputs(vectors, change, shift, noise=_NORM_NOISE)
    builder.add_factors(place, a, b, scaling)
    bias = tensors.get(TensorRole.LORA_B_BIAS)
    if bias is not None:
        if magnitude is not None:
            raise ValueError(f"{place.name}: a LoRA bias together with DoRA has no defined sum")
        builder.add_outputs(vectors, bias_N=scaling * bias.float())


def _dora_ratio(
    place: ModulePlace,
    a_RK: torch.Tensor,
    b_NR: torch.Tensor,
    scaling: float,
    magnitude: torch.Tensor,
    base: BaseWeights,
) -> torch.Tensor:
    norm_N = torch.linalg.norm(base.weight(place.name) + scaling * (b_NR @ a_RK), dim=1)
    ratio_N: torch.Tensor = magnitude.float().flatten() / norm_N
    return ratio_N


def _add_ia3(
    builder: PageBuilder, place: VectorPlace, vector: torch.Tensor, facts: BaseFacts
) -> None:
    change = vector.float() - 1.0
    if vector.shape[1] == 1:
        builder.add_outputs(place, change)
        return
    if facts.input_scaled is not None and place.name not in facts.input_scaled:
        raise ValueError(
            f"{place.name}: this backend can't scale the inputs of a linear that shares them with "
            "others; serve this IA3 adapter with backend reference, or train it without this "
            "module in feedforward_modules"
        )
    builder.add_inputs(place, change)
