"""Every number that a config may leave out, with the reason for it."""

from typing import Final

METHOD = "qlora"
"""4-bit base with LoRA on top: within a few percent of LoRA on the full-precision base at about a
quarter of the weights' memory (arXiv:2305.14314, table 3)."""

LORA_RANK = 16
"""The usual middle of public comparisons (8 to 64); the QLoRA paper found no effect of rank once
all linear layers are adapted."""

LORA_ALPHA_PER_RANK = 2
"""alpha = 2 r: the common setting; the learning rates below were found with it. A rank that is
changed alone keeps the same update size."""

LORA_DROPOUT = 0.05
"""The QLoRA paper's value for models up to 13B."""

MAX_RANK = 65536
"""The largest rank that `adapters.format.lora_config` reads; servers allow less."""

ADALORA_INIT_RANK = 12
ADALORA_TARGET_RANK = 8
"""PEFT's own: the paper starts at 1.5 times the rank that it aims at (arXiv:2303.10512)."""

NUM_VIRTUAL_TOKENS = 20
"""Enough to matter in the prompt-tuning paper's figure 3 and short beside any chat prompt."""

LEARNING_RATE = 2e-4
"""The QLoRA paper's value up to 13B, about ten times what full fine-tuning wants. Methods that want
another say so in their records (`trainer/methods`)."""

SCHEDULE: Final = "cosine"
"""Falls to zero at the end, so that the last steps settle; nothing to tune."""

WARMUP_SHARE = 0.05
"""Share of all steps in which the learning rate rises; Adam's first estimates are noise."""

DECAY_SHARE = 0.2
"""warmup_stable_decay: the last fifth of the steps falls to zero, as in arXiv:2404.06395."""

MIN_LEARNING_RATE_SHARE = 0.1
"""cosine_with_min_lr: where it ends, as a share of the peak."""

WEIGHT_DECAY = 0.0
"""LoRA's low rank already regularises."""

MAX_GRAD_NORM = 1.0
"""Clips the rare batch with a huge gradient and leaves the others alone."""

MAX_LENGTH = 1024
"""Tokens of the longest row; attention and activations grow with it. Chat data rarely has more."""

EVAL_SHARE = 0.05
MAX_EVAL_ROWS = 500
"""Held-out rows when no file is given: 5 %, at most 500, which is enough for a stable mean."""

MIN_EVAL_ROWS = 16
"""Fewer rows make the mean loss too noisy to decide anything by; never more than a fifth."""

ROWS_SEEN_AIM = 2000
MAX_EPOCHS = 6
"""Epochs are chosen so that about 2000 rows are seen, at most 6 times each: small data needs
repetition, large data doesn't, and more than 6 passes mostly memorise."""

STEPS_PER_EPOCH_AIM = 20
MIN_BATCH_TOKENS = 1024
MAX_BATCH_TOKENS = 4096
"""Tokens of one forward: enough rows for a steady gradient, few enough for about 20 steps an epoch,
and no more than what fits beside the logits (49152 words x 4096 tokens x 4 bytes = 0.8 GB)."""

EVAL_BATCH_TOKENS = 4096
"""Tokens of one evaluation forward: no gradients are kept, so more fit."""

NUM_SAMPLES = 3
SAMPLE_TOKENS = 64
"""Held-out prompts answered side by side by base and adapter, and how long an answer may be."""

METRIC_ROWS = 200
ANSWER_TOKENS = 256
"""Held-out rows that metrics are computed on, and how long their answers may be: on two cores some
minutes for a 135M model, and a standard error of 3.5 points for a share near one half."""

ADAPTER_DTYPE: Final = "bfloat16"
"""Half the bytes of float32; what is published is evaluated after this rounding."""

GATE = "eval_loss < base"
"""An adapter that is no better than its base on held-out rows is not published."""

STORE = "var/adapters"
RUNS = "var/runs"
"""Mutable data stays outside the packages, under the folder where the command runs."""

GOLDEN_MESSAGES = (
    {"role": "user", "content": "Hello! 你好!"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Count: 1, 2, 3\n- café"},
)
"""What is rendered for the manifest's golden token ids: two turns, two scripts, digits, a line
break; a server whose tokens differ on it would serve other prompts than were trained on."""
