"""Whether an adapter's modules are in a base model, with the shapes that they need."""

import re
from collections.abc import Iterable, Mapping

from adapters.format.tensor_checks import ModuleTensors
from adapters.format.tensor_roles import TensorRole

_MAX_LISTED = 12

ANY_SHAPE = (0, 0)
"""Of a module of a base whose factors are checked when they are laid out: which of its parameters
they are for isn't told by a name."""


def base_problems(
    modules: Mapping[str, ModuleTensors],
    base_modules: Mapping[str, tuple[int, int]],
    base_reference: str | None,
) -> list[str]:
    """What doesn't fit a base whose modules are name -> (in, out); an embedding is (tokens, out).

    Virtual tokens, which belong to no module, are left out.
    """
    made_for = f" (made for {base_reference})" if base_reference else ""
    named = {module: tensors for module, tensors in modules.items() if module}
    missing = [module for module in named if module not in base_modules]
    if named and len(missing) == len(named):
        return [
            f"no module of the adapter{made_for} is in this base: another base model, or another "
            f"naming. The adapter has {listed(named)}; the base has {listed(base_modules)}"
        ]
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of {len(named)} modules of the adapter{made_for} aren't in this "
            f"base: {listed(missing)}; the base has {listed(base_modules)}"
        )
    for module, tensors in named.items():
        if module in base_modules and base_modules[module] != ANY_SHAPE:
            problems += _shape_problems(module, tensors, base_modules[module], made_for)
    return problems


def listed(names: Iterable[str]) -> str:
    """Every name once, the layer numbers replaced by `*`."""
    kinds = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))
    rest = len(kinds) - _MAX_LISTED
    text = ", ".join(kinds[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")
    return text or "none"


def _shape_problems(
    module: str, tensors: ModuleTensors, wanted: tuple[int, int], made_for: str
) -> list[str]:
    num_inputs, num_outputs = wanted
    another = f"the adapter{made_for} is for another base model"
    problems = []
    for role_a, role_b in (
        (TensorRole.LORA_A, TensorRole.LORA_B),
        (TensorRole.EMBEDDING_A, TensorRole.EMBEDDING_B),
    ):
        if role_a in tensors and role_b in tensors:
            a, b = tensors[role_a].shape, tensors[role_b].shape
            if (a[-1:], b[:1]) != ((num_inputs,), (num_outputs,)):
                problems.append(
                    f"{module}: lora_A {list(a)} and lora_B {list(b)} don't fit this base's "
                    f"{num_inputs} inputs and {num_outputs} outputs: {another}"
                )
    allowed: dict[TensorRole, tuple[tuple[int, ...], ...]] = {
        TensorRole.IA3: ((num_outputs, 1), (1, num_inputs)),
        TensorRole.BIAS: ((num_outputs,),),
        TensorRole.WEIGHT: (wanted, wanted[::-1]),
        TensorRole.BASE_COPY: (wanted, wanted[::-1]),
    }
    for role, shapes in allowed.items():
        if role in tensors and tensors[role].shape not in shapes:
            problems.append(
                f"{module}: the {role.value} is {list(tensors[role].shape)}, and this base has "
                f"{num_inputs} inputs and {num_outputs} outputs (a resized vocabulary isn't "
                f"served): {another}"
            )
    rows = tensors.get(TensorRole.TOKENS)
    if rows is not None and rows.shape[-1] not in wanted:
        problems.append(
            f"{module}: the trained token embeddings are {list(rows.shape)}, and this base has "
            f"embeddings of {num_outputs}: {another}"
        )
    return problems
