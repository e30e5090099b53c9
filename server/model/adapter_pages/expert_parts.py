"""An adapter's LoRA on the parameters of experts, as row tables: expert after expert."""

from collections.abc import Mapping

from adapters.format.config_values import names_module
from adapters.format.lora_config import LoraConfig
from adapters.format.tensor_roles import TensorRole
from server.model.adapter_pages.adapter_tensors import ModuleTensors
from server.model.adapter_pages.experts_shape import ExpertsShape
from server.model.adapter_pages.page_builder import PageBuilder
from server.model.adapter_pages.special_parts import ExpertFactors

_NESTED = ".base_layer"


def experts_module(module: str) -> str:
    """The experts' module that PEFT's name for one of its wrapped parameters lies in."""
    while module.endswith(_NESTED):
        module = module.removesuffix(_NESTED)
    return module


def expert_factors(
    builder: PageBuilder,
    module: str,
    tensors: ModuleTensors,
    config: LoraConfig,
    experts: Mapping[str, ExpertsShape],
) -> tuple[tuple[str, str], ExpertFactors]:
    """The factors of one wrapped parameter, under its module and name. Raises `ValueError`.

    PEFT wraps the parameters of a module that `target_parameters` names one after another, and the
    file tells them apart by the depth alone: the first one is the innermost.
    """
    name = experts_module(module)
    shape = experts[name]
    targets = config.target_parameters
    named = [p for p in shape.parameters if names_module(targets, f"{name}.{p}")]
    depth = (len(module) - len(name)) // len(_NESTED)
    if depth >= len(named):
        raise ValueError(
            f"{module}: target_parameters names {len(named)} parameters of {name}, and this would "
            f"be one more"
        )
    parameter = named[len(named) - 1 - depth]
    others = set(tensors) - {TensorRole.LORA_A, TensorRole.LORA_B}
    if others:
        raise ValueError(f"{module}: of experts only LoRA's two factors are served")
    a_XK, b_NX = tensors[TensorRole.LORA_A], tensors[TensorRole.LORA_B]
    in_features, out_features = shape.parameters[parameter]
    full_name = f"{name}.{parameter}"
    rank = config.rank_of(full_name)
    assert rank is not None
    width = rank * shape.num_experts
    wanted = ((width, in_features), (out_features, width))
    if (tuple(a_XK.shape), tuple(b_NX.shape)) != wanted:
        raise ValueError(
            f"{full_name}: A {list(a_XK.shape)} and B {list(b_NX.shape)} don't fit this base: "
            f"{shape.num_experts} experts of rank {rank}, {in_features} inputs and {out_features} "
            "outputs"
        )
    b_XN = b_NX.reshape(out_features, rank, shape.num_experts).permute(2, 1, 0)
    builder.has_effect |= bool(a_XK.any() and b_NX.any())
    factors = ExpertFactors(
        builder.add_table(full_name, a_XK),
        builder.add_table(full_name, b_XN.reshape(width, out_features)),
        rank,
        config.scaling_of(full_name),
    )
    return (name, parameter), factors
