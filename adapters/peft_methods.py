"""PEFT's methods: which of them are served, and a sentence for each that isn't.

Names are those of `peft.PeftType` (PEFT 0.21).
"""

from collections.abc import Mapping

LORA = "LORA"
ADALORA = "ADALORA"
IA3 = "IA3"
PROMPT_TUNING = "PROMPT_TUNING"
P_TUNING = "P_TUNING"
PREFIX_TUNING = "PREFIX_TUNING"
TRAINABLE_TOKENS = "TRAINABLE_TOKENS"

SERVED_METHODS = (
    LORA, ADALORA, IA3, PROMPT_TUNING, P_TUNING, PREFIX_TUNING, TRAINABLE_TOKENS,
)  # fmt: skip

PROMPT_METHODS = (PROMPT_TUNING, P_TUNING, PREFIX_TUNING)
"""Methods whose adapter is virtual tokens before the prompt: at most one in a stack."""

_DENSE = "its change of a weight has no low rank, so it can't be added to one row of a batch"
_ROTATION = "it multiplies the base weight by a rotation, so its change has no low rank"
_GATED = "it chooses its weights anew for each input"

_REASONS: Mapping[str, str] = {
    "LOHA": _DENSE,
    "LOKR": _DENSE,
    "FOURIERFT": _DENSE,
    "WAVEFT": _DENSE,
    "SHIRA": _DENSE,
    "C3A": _DENSE,
    "OSF": _DENSE,
    "RANDLORA": "its random bases of full rank together make a dense change",
    "OFT": _ROTATION,
    "BOFT": _ROTATION,
    "HRA": _ROTATION,
    "ROAD": _ROTATION,
    "PSOFT": _ROTATION,
    "VERA": "its shared random matrices aren't always in the file",
    "PVERA": "its shared random matrices aren't always in the file",
    "VBLORA": "its vector bank isn't unpacked here",
    "XLORA": _GATED,
    "POLY": "it mixes skills by a task id, which a request doesn't have",
    "MULTITASK_PROMPT_TUNING": "it chooses its prompt by a task id, which a request doesn't have",
    "ADAPTION_PROMPT": "it changes the attention of the upper layers itself",
    "LN_TUNING": "it replaces the norms of the base",
    "CPT": "its prompt is tied to the training examples' labels",
    "CARTRIDGE": "its trained cache has no positions of its own",
}

_REMEDY = (
    "Merge it into the base (merge_and_unload) and serve that, or extract a LoRA from the merged "
    "weights and import that"
)


def method_problem(peft_type: str) -> str | None:
    """Why adapters of this type aren't served; None for those that are."""
    name = peft_type.upper()
    if name in SERVED_METHODS:
        return None
    served = ", ".join(SERVED_METHODS)
    if name not in _REASONS:
        return f"the method {peft_type[:40]} isn't served; served are {served}"
    return f"the method {name} isn't served: {_REASONS[name]}. {_REMEDY}"
