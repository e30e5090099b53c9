"""The linear modules that an adapter can change, by name and shape."""

from typing import Any

from torch import nn

from adapters.base.architecture import drop_senses, empty_model
from adapters.format.base_fit import ANY_SHAPE


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(in_features, out_features) of a linear layer of any kind, None for other modules."""
    if isinstance(module, nn.Linear):  # bitsandbytes' Linear4bit is one
        return None if _is_router(module) else (module.in_features, module.out_features)
    if type(module).__name__ == "Conv1D":  # GPT-2's transposed linear
        weight: Any = module.weight
        return int(weight.shape[0]), int(weight.shape[1])
    return None


def _is_router(module: nn.Linear) -> bool:
    """Whether it is a linear in name only: a router that gives scores and choices.

    Of transformers' subclasses of `nn.Linear` only those give something other than a tensor.
    """
    return type(module).__name__.endswith("Router")


def linear_modules(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Module name -> (in_features, out_features) of every linear but the output head."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        shape = linear_shape(module)
        if shape is not None and module is not head:
            shapes[name] = shape
    return shapes


def expert_parameters(module: nn.Module) -> dict[str, tuple[int, int, int]]:
    """The shapes of the 3-D weights of a layer's experts, in order; empty for other modules.

    These are the modules that transformers' `use_experts_implementation` marks.
    """
    if not hasattr(module, "has_gate") or not hasattr(module, "is_transposed"):
        return {}
    return {
        name: (int(p.shape[0]), int(p.shape[1]), int(p.shape[2]))
        for name, p in module.named_parameters(recurse=False)
        if p.dim() == 3
    }


def _experts_names(name: str, module: nn.Module) -> list[str]:
    """What PEFT calls the wrapped parameters of a layer's experts, the outermost first."""
    return [name + ".base_layer" * depth for depth in range(len(expert_parameters(module)))]


def adaptable_modules(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Module name -> shape of everything that an adapter may change.

    A layer's experts stand for each of their parameters that PEFT may wrap, as `ANY_SHAPE`.

    The linears and the output head as (in, out), the token embedding as (vocabulary, hidden), and
    norms with a bias, of which only that can be trained, as (size, size).
    """
    embedding: Any = getattr(model, "get_input_embeddings", lambda: None)()
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    shapes = linear_modules(model)
    for name, module in model.named_modules():
        if module is embedding:
            rows, columns = embedding.weight.shape
            shapes[name] = int(rows), int(columns)
        elif module is head and (shape := linear_shape(head)) is not None:
            shapes[name] = shape
        elif isinstance(module, nn.LayerNorm) and module.bias is not None:
            shapes[name] = module.normalized_shape[-1], module.normalized_shape[-1]
        else:
            shapes |= dict.fromkeys(_experts_names(name, module), ANY_SHAPE)
    return shapes


def module_shapes_from_config(config: Any) -> dict[str, tuple[int, int]]:
    """`linear_modules` of the architecture in a transformers config, without any weights."""
    return linear_modules(_text_model(config))


def adaptable_modules_from_config(config: Any) -> dict[str, tuple[int, int]]:
    """`adaptable_modules` of the architecture in a transformers config, without any weights."""
    return adaptable_modules(_text_model(config))


def _text_model(config: Any) -> nn.Module:
    model: nn.Module = empty_model(config)
    drop_senses(model)
    return model
