"""What is compared: the methods with the learning rate that each wants in so short a run."""

SEEDS = (0, 1, 2)

LEARNING_RATES = {
    "full": "1e-4",
    "lora": "1e-3",
    "qlora": "1e-3",
    "rslora": "1e-3",
    "dora": "1e-3",
    "adalora": "3e-3",
    "ia3": "1e-2",
    "prompt_tuning": "3e-2",
    "prefix_tuning": "1e-2",
    "p_tuning": "1e-3",
}
"""LoRA's usual 2e-4 is for thousands of steps, not thirty; full fine-tuning wants a tenth of it."""

VARIANTS = {
    "qlora from LoftQ": ("qlora", "--lora.init", "loftq"),
    "qlora from QERA": ("qlora", "--lora.init", "qera"),
    "qlora rank 4": ("qlora", "--lora.r", "4"),
}
"""A method with other settings."""

COMPARED = ("full", "lora", "qlora", *VARIANTS)
SIDE_BY_SIDE = (
    "qlora", "rslora", "dora", "adalora", "ia3", "prompt_tuning", "prefix_tuning", "p_tuning",
)  # fmt: skip


def overrides(arm: str, seed: int = 0) -> tuple[str, ...]:
    """The command line of one run of a method or a variant."""
    method, *more = VARIANTS.get(arm, (arm,))
    rate = LEARNING_RATES[method]
    return ("--method", method, "--seed", str(seed), "--training.learning_rate", rate, *more)
