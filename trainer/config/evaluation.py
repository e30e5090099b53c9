"""When held-out loss is measured, what is shown, and what is computed before publishing."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from trainer.config import defaults
from trainer.config.section import Section, split_names

Metric = Literal["perplexity", "bleu", "rouge", "exact_match", "judge", "pairwise"]
JUDGED: tuple[Metric, ...] = ("judge", "pairwise")
"""Those that ask a judge."""


class JudgeSection(Section):
    """A model behind an OpenAI-compatible endpoint that scores answers."""

    url: str | None = Field(default=None, description="e.g. http://127.0.0.1:8000/v1")
    model: str | None = Field(default=None, description="the name to ask for there")
    api_key_env: str = Field(
        default="OPENAI_API_KEY", description="the variable that holds the key; never the key"
    )
    held_to_form: bool = Field(
        default=False,
        description="replies are verdicts alone, by a JSON schema (structured outputs)",
    )
    questions: str | None = Field(
        default=None,
        description="JSONL of MT-Bench questions, relative to the config; default held-out prompts",
    )


class EvaluationSection(Section):
    """When held-out loss is measured, and what else is measured and shown at the end."""

    every: Literal["epoch", "end"] | int = Field(
        default="epoch", description="epoch, end, or a number of steps"
    )
    keep_best: bool = Field(default=True, description="publish the weights of the best evaluation")
    batch_tokens: int = Field(
        default=defaults.EVAL_BATCH_TOKENS, ge=8, description="tokens of one evaluation forward"
    )
    samples: int = Field(
        default=defaults.NUM_SAMPLES, ge=0, description="held-out prompts answered side by side"
    )
    sample_tokens: int = Field(
        default=defaults.SAMPLE_TOKENS, ge=1, description="how long such an answer may be"
    )
    metrics: Annotated[tuple[Metric, ...], BeforeValidator(split_names)] = Field(
        default=("perplexity",),
        description="of base and adapter before publishing: perplexity, bleu, rouge, exact_match, "
        "judge, pairwise",
    )
    max_rows: int = Field(
        default=defaults.METRIC_ROWS, ge=1, description="held-out rows that metrics answer"
    )
    answer_tokens: int = Field(
        default=defaults.ANSWER_TOKENS, ge=1, description="how long such an answer may be"
    )
    language: Literal["auto", "en", "zh"] = Field(
        default="auto", description="how BLEU and ROUGE split words; auto looks at the references"
    )
    judge: JudgeSection = Field(default=JudgeSection(), description="a model that scores answers")

    @field_validator("every")
    @classmethod
    def _every_is_positive(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError("evaluate every 1 or more steps, at each epoch, or at the end")
        return value
