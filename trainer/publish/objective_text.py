"""What a run optimises, in words."""

from trainer.config.objective import Objective, PreferenceSection


def loss_name(objective: Objective) -> str:
    """The loss with its unit, for axes and tables."""
    if objective == "sft":
        return "loss (nats per token)"
    return f"{objective} loss"


def describe_objective(objective: Objective, section: PreferenceSection, *, is_text: bool) -> str:
    """What carried loss, or what was preferred to what; `is_text` for plain text."""
    if objective == "sft":
        if is_text:
            return "loss on every token of the texts"
        return "loss on the assistant's tokens and the token that ends its turn"
    if objective == "kto":
        return (
            f"kto (arXiv:2402.01306): answers judged good or bad, beta {section.beta:g}, weights "
            f"{section.desirable_weight:g} and {section.undesirable_weight:g}; the reference is "
            "the base"
        )
    if objective == "orpo":
        return (
            "orpo (arXiv:2403.07691): loss on the chosen answer's tokens, and the odds ratio of "
            f"chosen to rejected answers with weight {section.beta:g}; no reference"
        )
    parts = [f"loss {section.loss}", f"beta {section.beta:g}"]
    if section.label_smoothing:
        parts.append(f"label smoothing {section.label_smoothing:g}")
    if section.sft_weight:
        parts.append(f"plus {section.sft_weight:g} of the loss on the chosen answer's tokens")
    return (
        "dpo (arXiv:2305.18290): chosen answers against rejected ones, "
        f"{', '.join(parts)}; the reference is the base"
    )
