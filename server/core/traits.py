"""What admission and scheduling must know of a loaded adapter, and which stacks have a meaning."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.core.stack import AdapterStack


@dataclass(frozen=True, slots=True)
class AdapterTraits:
    """`num_pages` is what it takes in the bank.

    `num_virtual_tokens` come before the prompt, as embeddings or, for a prefix, as keys and values.
    With `invocation_token_ids` it acts from their last occurrence in the prompt on (aLoRA).
    """

    num_pages: int
    num_virtual_tokens: int = 0
    is_prefix: bool = False
    is_dora: bool = False
    is_ia3: bool = False
    invocation_token_ids: tuple[int, ...] = ()


def stack_problem(stack: AdapterStack, traits: Sequence[AdapterTraits]) -> str | None:
    """Why this stack has no exact sum, or None; `traits` are its members', in their order."""
    for is_member, what, reason in (
        (
            [t.num_virtual_tokens > 0 for t in traits],
            "adapters of virtual tokens",
            "only one can come first in a sequence",
        ),
        (
            [t.is_dora for t in traits],
            "DoRA adapters",
            "each is normed for the base alone, so their sum is not what either was trained for",
        ),
        ([t.is_ia3 for t in traits], "IA3 adapters", "their factors multiply and don't add up"),
        (
            [t.is_dora or t.is_ia3 for t in traits],
            "DoRA and IA3 adapters",
            "one scales the outputs that the other's scaled inputs would give",
        ),
    ):
        named = [
            m.adapter.label for m, is_in in zip(stack.members, is_member, strict=True) if is_in
        ]
        if len(named) > 1:
            return f"a stack can't hold the {what} {' and '.join(named)}: {reason}"
    for member, trait in zip(stack.members, traits, strict=True):
        if member.scale != 1.0 and (trait.num_virtual_tokens or trait.is_ia3):
            kind = "virtual tokens" if trait.num_virtual_tokens else "IA3"
            return (
                f"adapter {member.adapter.label} ({kind}) has the scale {member.scale:g}; it can "
                "only be used whole, with scale 1"
            )
    return None


def find_invocation(prompt: Sequence[int], invocation: Sequence[int]) -> int | None:
    """Where the last occurrence of `invocation` in `prompt` begins."""
    width = len(invocation)
    wanted = tuple(invocation)
    for start in range(len(prompt) - width, -1, -1):
        if tuple(prompt[start : start + width]) == wanted:
            return start
    return None
