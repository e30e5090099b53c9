"""What adapted linears keep of a forward for its backward, for a prediction of memory.

A frozen linear keeps no input. One adapted by PEFT keeps its input in float32, which PEFT casts it
to; `lean_lora` keeps it as it is, once for all linears that read it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trainer.methods.targets import Shape

if TYPE_CHECKING:
    from trainer.methods.method import TrainingForward

OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "dense")
"""Attention's last linear, which reads attention's output and not what the others read."""


def adapter_inputs(
    matched: Mapping[str, Shape],
    forward: "TrainingForward",
    ranks: int,
    *,
    has_dropout: bool,
    is_dora: bool,
) -> int:
    """Of linears adapted by PEFT: their input in float32, the dropout's mask, A's output; `ranks`
    are those of all `matched` modules together.
    """
    # Off CUDA a dropout mask is as wide as what it masks.
    mask = 4 if has_dropout else 0
    per_token = 4 * ranks + sum((4 + mask) * inputs for inputs, _ in matched.values())
    if is_dora:
        # The magnitudes multiply the base's and the adapter's output, both of which are kept. With
        # dropout PEFT computes the base's anew, in float32.
        per_output = 4 + (4 if has_dropout else forward.element_bytes)
        per_token += sum(per_output * outputs for _, outputs in matched.values())
    return forward.tokens * per_token


def lean_inputs(
    matched: Mapping[str, Shape], forward: "TrainingForward", ranks: int, *, has_dropout: bool
) -> int:
    """Of `lean_lora`: an input as it is, once for all linears that read it, and A's output; with
    dropout an input and a mask for each linear.
    """
    per_token = ranks
    if has_dropout:
        per_token += sum(2 * inputs for inputs, _ in matched.values())
        return forward.tokens * per_token * forward.element_bytes
    readers: dict[tuple[str, int], list[str]] = {}
    for name, (inputs, _) in matched.items():
        readers.setdefault((name.rpartition(".")[0], inputs), []).append(name)
    for (_, inputs), names in readers.items():
        per_token += inputs * _num_inputs(names, forward.is_packed)
    return forward.tokens * per_token * forward.element_bytes


def _num_inputs(names: Sequence[str], is_packed: bool) -> int:
    """Different tensors that these linears of one module and one width read, beside attention's
    output, which is counted there unless packed rows were put together to a new one.
    """
    outputs = [name for name in names if name.endswith(OUTPUT_PROJECTIONS)]
    is_attention = bool(outputs) and len(names) > len(outputs)
    return (1 + is_packed) if is_attention else 1
