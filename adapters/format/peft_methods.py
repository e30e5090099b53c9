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

_DENSE = "its change of a weight has no low rank, so it can't be added to one row of a batch"
_ROTATION = "it multiplies the base weight by a rotation, so its change has no low rank"
_SHARED = "its matrices are shared and some of them made anew from a seed"
_GATED = "it chooses its weights anew for each input"

_FOLDED: Mapping[str, str] = {
    "LOHA": _DENSE,
    "LOKR": _DENSE,
    "HIRA": _DENSE,
    "FOURIERFT": _DENSE,
    "WAVEFT": _DENSE,
    "SHIRA": _DENSE,
    "C3A": _DENSE,
    "OSF": _DENSE,
    "FROD": _DENSE,
    "MISS": _DENSE,
    "GRALORA": "its blocks together make a dense change",
    "RANDLORA": "its random bases of full rank together make a dense change",
    "GLORA": "it scales the base weight too",
    "DELORA": "it normalises its factors as it goes",
    "DEFT": "it projects the base weight",
    "OFT": _ROTATION,
    "BOFT": _ROTATION,
    "HRA": _ROTATION,
    "ROAD": _ROTATION,
    "PSOFT": _ROTATION,
    "VERA": _SHARED,
    "PVERA": _SHARED,
    "TINYLORA": _SHARED,
    "UNILORA": _SHARED,
    "VBLORA": "its factors are put together from a bank of vectors",
}
"""Changes of linears, and linear ones: each has a LoRA that comes near. What is served is that."""

_REFUSED: Mapping[str, str] = {
    "XLORA": _GATED,
    "POLY": "it mixes skills by a task id, which a request doesn't have",
    "MULTITASK_PROMPT_TUNING": "it chooses its prompt by a task id, which a request doesn't have",
    "ADAPTION_PROMPT": "it changes the attention of the upper layers itself",
    "LN_TUNING": "it replaces the norms of the base",
    "CPT": "its prompt is tied to the training examples' labels",
    "CARTRIDGE": "its trained cache has no positions of its own",
    "LILY": _GATED,
}

_FOLD = (
    "A LoRA that comes near it can be: `adapters import NAME FOLDER --fold --base BASE` makes it "
    "and says how near"
)
_MERGE = "Merge it into the base (merge_and_unload) where PEFT can, and serve that"


def method_problem(peft_type: str) -> str | None:
    """Why adapters of this type aren't served; None for those that are."""
    name = peft_type.upper()
    if name in SERVED_METHODS:
        return None
    if name in _FOLDED:
        return f"the method {name} isn't served as it is: {_FOLDED[name]}. {_FOLD}"
    if name in _REFUSED:
        return f"the method {name} isn't served: {_REFUSED[name]}. {_MERGE}"
    return f"the method {peft_type[:40]} isn't served; served are {', '.join(SERVED_METHODS)}"


def folding_problem(peft_type: str) -> str | None:
    """Why adapters of this type aren't folded into a LoRA; None for those that are."""
    name = peft_type.upper()
    if name in _FOLDED:
        return None
    if name in SERVED_METHODS:
        return f"the method {name} is served as it is: import the adapter without --fold"
    return method_problem(peft_type)
