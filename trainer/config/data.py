"""Where the rows come from and how they are cleaned."""

from typing import Literal

from pydantic import Field, field_validator

from trainer.config import defaults
from trainer.config.section import Section

Format = Literal[
    "auto", "instruction", "messages", "conversations", "prompt",
    "openorca", "ultrachat", "text", "preference",
]  # fmt: skip


class CleaningSection(Section):
    """Rules that rows must pass; each is counted in the data report."""

    duplicates: Literal["drop", "keep"] = Field(
        default="drop", description="rows that are equal to an earlier one"
    )
    near_duplicates: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="drop rows this similar (Jaccard of shingles) to an earlier one, e.g. 0.9; "
        "by default such rows are counted and left in",
    )
    eval_overlap: Literal["drop", "keep"] = Field(
        default="drop", description="train rows that are also held out"
    )
    control_characters: Literal["remove", "drop", "keep"] = Field(
        default="remove", description="remove them, drop the row, or leave it alone"
    )
    html: Literal["strip", "drop", "keep"] = Field(
        default="keep", description="tags and entities left over from web pages"
    )
    white_space: Literal["keep", "strip"] = Field(
        default="keep",
        description="around a message's text: indentation and line ends mean something in code",
    )
    min_answer_chars: int = Field(default=1, ge=1, description="shorter answers are dropped")
    roles: Literal["drop", "repair"] = Field(
        default="drop",
        description="turns in the wrong order: drop the row, or keep its sound beginning",
    )


class DataSection(Section):
    """Where the rows come from and how they are cleaned. Paths are relative to the config file."""

    train: str = Field(description="JSON, JSONL, CSV or Parquet file, or a hub dataset's name")
    eval: float | str = Field(
        default=defaults.EVAL_SHARE,
        description="a file of held-out rows, or the share of train to hold out",
    )
    format: Format = Field(default="auto", description="how rows are written; auto looks at them")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="our column names to the file's, e.g. {instruction: question_text}; role and "
        "content name the keys of messages",
    )
    ignore_columns: tuple[str, ...] = Field(
        default=(), description="columns that are left out, whatever they say, e.g. [images]"
    )
    split: str = Field(default="train", description="which split of a hub dataset to train on")
    max_length: int = Field(default=defaults.MAX_LENGTH, ge=8, description="tokens of a row")
    over_length: Literal["drop", "truncate", "fail"] = Field(
        default="drop", description="what happens to longer rows"
    )
    max_train_rows: int | None = Field(
        default=None, ge=1, description="train on so many rows, drawn with the seed"
    )
    max_eval_rows: int = Field(
        default=defaults.MAX_EVAL_ROWS, ge=1, description="hold out at most so many rows"
    )
    packing: bool = Field(
        default=False,
        description="several rows in one sequence, each attending to itself alone: no padding",
    )
    streaming: bool = Field(
        default=False,
        description="keep the tokenised rows on disk, memory-mapped: for files larger than memory",
    )
    system: str | None = Field(
        default=None, description="system message for rows that have none of their own"
    )
    cleaning: CleaningSection = Field(
        default=CleaningSection(), description="rules that rows must pass"
    )

    @field_validator("eval")
    @classmethod
    def _share_is_a_share(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and not 0.0 < value < 1.0:
            raise ValueError(
                "a share of train must be above 0 and below 1, e.g. 0.05; or name a file"
            )
        return value
