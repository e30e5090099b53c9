"""What the users of a scenario ask, and what they must be answered."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loadtests.harness.closed_loop import QUESTIONS

CHAT = "/v1/chat/completions"
ADAPTER_HEADER = "x-adapter-digest"
ZIPF_EXPONENT = 1.1


@dataclass(frozen=True, slots=True)
class Workload:
    """One scenario's material, handed to the load process as a JSON file.

    `goldens` is adapter digest (empty for the base) -> prompt -> the whole greedy answer, each
    taken alone from the idle server: whatever serves a prompt under load must say the same.
    `churn_folders` are PEFT folders that take turns behind the name `churn_name`.
    """

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    max_tokens: int
    goldens: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    long_prompts: tuple[str, ...] = ()
    churn_name: str = ""
    churn_folders: tuple[str, ...] = ()
    records: str = ""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    def is_right(self, digest: str, prompt: str, text: str) -> bool | None:
        """Whether `text` is the golden answer; None for a prompt that has none."""
        expected = self.goldens.get(digest, {}).get(prompt)
        return None if expected is None else expected == text


def read_workload(path: Path) -> Workload:
    """Read what `Workload.write` wrote."""
    document = json.loads(path.read_text())
    lists = ("models", "prompts", "long_prompts", "churn_folders")
    return Workload(**{**document, **{name: tuple(document[name]) for name in lists}})


def golden_prompts(count: int) -> tuple[str, ...]:
    """The first `count` questions; more than there are is a mistake of the caller."""
    assert 1 <= count <= len(QUESTIONS), count
    return QUESTIONS[:count]


def zipf_choice(models: Sequence[str], draw: random.Random) -> str:
    """One model, the k-th with a weight of 1 / k**1.1."""
    weights = [1.0 / place**ZIPF_EXPONENT for place in range(1, len(models) + 1)]
    return draw.choices(models, weights)[0]


def chat_body(model: str, prompt: str, max_tokens: int) -> dict[str, object]:
    """A greedy streamed chat request."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
