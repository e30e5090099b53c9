"""`evaluation.metrics` of a run: measured of base and adapter before publishing, kept, shown."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from adapters.store.store import AdapterStore
from tests.unit.trainer.endpoint import chat_endpoint
from tests.unit.trainer.tiny import save_tiny_base
from trainer.config.loading import load_config
from trainer.errors import DataError, EvaluationError
from trainer.run.running import RunResult, run_training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

METRICS = ["perplexity", "bleu", "rouge", "exact_match", "judge", "pairwise"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_base(tmp_path_factory.mktemp("base")))


def run(folder: Path, base: str, evaluation: dict[str, Any], **document: Any) -> RunResult:
    rows = document.pop("rows", None) or [
        {"instruction": f"item {i}?", "output": "yes"} for i in range(30)
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    whole = {
        "name": "m", "base": base, "data": {"train": "train.jsonl"},
        "lora": {"r": 4, "dropout": 0.0},
        "training": {"epochs": 2, "learning_rate": 3e-2, "batch_tokens": 1024},
        "evaluation": {"samples": 0, **evaluation}, **document,
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return run_training(
        load_config(path),
        store=AdapterStore(folder / "store"),
        runs=folder / "runs",
        console=Console(quiet=True),
    )


def test_metrics_and_verdicts_reach_report_card_and_manifest(base: str, tmp_path: Path) -> None:
    def verdict(body: dict[str, Any]) -> str:
        is_pair = "[Answer B]" in body["messages"][0]["content"]
        return "[[A]]" if is_pair else "Fine. Rating: [[7]]"

    with chat_endpoint(verdict) as judge:
        result = run(
            tmp_path,
            base,
            {"metrics": METRICS, "max_rows": 3, "answer_tokens": 4,
             "judge": {"url": judge.url, "model": "j"}},
        )  # fmt: skip
    # Three rows: a rating of base and adapter each, and the pair in both orders.
    assert len(judge.bodies) == 3 * (2 + 2)
    assert judge.models == {"j"}
    assert result.stored is not None
    metrics = result.stored.manifest.metrics
    for name in ("perplexity", "bleu", "rouge1", "rougeL", "exact_match", "judge"):
        assert {f"eval_{name}", f"eval_{name}_base"} <= metrics.keys()
    assert metrics["eval_judge"] == 7
    assert metrics["eval_pairwise_inconsistent"] == 3
    assert "eval_pairwise_won_base" not in metrics
    assert metrics["eval_perplexity"] < metrics["eval_perplexity_base"]
    report = json.loads((result.folder.path / "evaluation.json").read_text(encoding="utf-8"))
    assert set(report["figures"]) == {"base", "m"}
    assert len(report["rows"]) == 3
    assert report["rows"][0]["verdicts"]["m"] == {"rating": 7, "reply": "Fine. Rating: [[7]]"}
    assert report["rows"][0]["against_base"]["m"] == {
        "outcome": "inconsistent", "replies": ["[[A]]", "[[A]]"],
    }  # fmt: skip
    card = (result.stored.path / "README.md").read_text(encoding="utf-8")
    assert "| BLEU |" in card
    assert "`j` preferred the adapter's 0 times and the base's 0 times" in card
    assert "changed its verdict on 3 and gave none on 0." in card
    assert "| judge's mean rating, 1 to 10 | 7 | 7 |" in card
    assert "The judge is `j`; of its 3 verdicts on the adapter's answers 0 had no rating" in card


def test_a_judge_that_does_not_answer_is_told_before_step_1(base: str, tmp_path: Path) -> None:
    judge = {"url": "http://127.0.0.1:9", "model": "j"}
    with pytest.raises(EvaluationError, match="can't be asked as j"):
        run(tmp_path, base, {"metrics": ["judge"], "max_rows": 1, "judge": judge})
    assert list((tmp_path / "runs").rglob("history.jsonl")) == []


def test_preferences_are_measured_by_their_chosen_answers(base: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"item {i}?", "chosen": "yes", "rejected": "NO!"} for i in range(30)]
    result = run(
        tmp_path, base, {"metrics": ["perplexity", "exact_match"], "answer_tokens": 4},
        objective="orpo", rows=rows, publish={"gate": "none"},
    )  # fmt: skip
    assert result.metrics["eval_perplexity"] < result.metrics["eval_perplexity_base"]
    assert result.metrics["eval_exact_match"] > result.metrics["eval_exact_match_base"]
    card = (result.folder.adapter / "README.md").read_text(encoding="utf-8")
    assert "| held-out orpo loss |" in card
    assert "orpo (arXiv:2403.07691): loss on the chosen answer's tokens" in card
    assert "the assistant's tokens" not in card


def test_plain_text_can_not_be_answered(base: str, tmp_path: Path) -> None:
    rows = [{"text": f"some text {i}"} for i in range(30)]
    with pytest.raises(DataError, match="the held-out rows are plain text"):
        run(tmp_path, base, {"metrics": ["bleu"]}, rows=rows)
