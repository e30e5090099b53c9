"""The trainer's commands that ask a server, asking our own: `verify`, and a judge.

A real `server` process with API keys serves a tiny base; `yes` answers "yes", `critic` was
trained on what a judge is asked and rates everything with 7, and the base itself, being random,
says nothing that is a rating unless it is held to the form of one.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from adapters.names import parse_ref
from adapters.store.store import AdapterStore
from tests.integration.live_server import BIN, live_server
from tests.unit.trainer.tiny import save_tiny_base
from trainer.cli import app
from trainer.config.loading import load_config
from trainer.errors import EvaluationError
from trainer.metrics import judge as judging
from trainer.metrics.judge import Form, Question, chat, judge
from trainer.run.running import RunResult, run_training
from trainer.serving.parity import NEAR_TIE, verify_served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY_VARIABLE = "TEST_JUDGE_KEY"
RATING = "[[7]]"


QUESTIONS = [f"item {i}?" for i in range(48)]


@dataclass(frozen=True)
class Live:
    """A server at `url` that wants `key`, over the store `store` on the base `base`."""

    url: str
    key: str
    base: str
    store: AdapterStore
    folder: Path


def train(folder: Path, base: str, store: AdapterStore, name: str, **document: Any) -> RunResult:
    """Train until the answers are known by heart."""
    folder.mkdir(parents=True)
    answer, asked = document.pop("answer"), document.pop("asked", QUESTIONS)
    rows = [{"instruction": question, "output": answer} for question in asked]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    whole = {
        "name": name, "base": base, "data": {"train": "train.jsonl"},
        "lora": {"r": 8, "dropout": 0.0},
        "training": {"epochs": 12, "learning_rate": 2e-2, "batch_tokens": 1024},
        "evaluation": {"samples": 0, **document.pop("evaluation", {})}, **document,
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return run_training(
        load_config(path), store=store, runs=folder / "runs", console=Console(quiet=True)
    )


def judged_prompts() -> list[str]:
    """What a judge is asked about answers of many kinds, good and bad ones."""
    prompts: list[str] = []

    def note(prompt: str, form: Form) -> str:
        prompts.append(prompt)
        return ""

    answers = ["yes", "no!", "", "item 7", "]]]]", "Ûê#" * 3]
    questions = [Question(text, "yes" if i % 2 else "") for i, text in enumerate(QUESTIONS)]
    judge(questions, [answers[i % len(answers)] for i in range(len(questions))], note)
    return prompts


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    base = str(save_tiny_base(folder / "tiny", max_tokens=2048))
    store = AdapterStore(folder / "store")
    train(folder / "yes", base, store, "yes", answer="yes")
    train(folder / "critic", base, store, "critic", answer=RATING, asked=judged_prompts())
    keys = folder / "keys.yaml"
    made = subprocess.run(
        [BIN / "server", "keys", "new", "trainer", "--keys-file", keys],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    arguments = ("--base", base, "--keys-file", str(keys))
    with live_server(store.root, folder / "server.log", *arguments) as url:
        yield Live(url, made.stdout.strip(), base, store, folder)


def invoke(*arguments: Any) -> tuple[int, str]:
    """A trainer command: its exit code, and its output in one line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize("name", ["yes", "critic@1"])
def test_what_was_trained_is_served(live: Live, name: str) -> None:
    asked = ("verify", name, "--store", live.store.root, "--server", live.url)
    code, text = invoke(*asked, "--api-key", live.key)
    assert code == 0, text
    assert "digest: equal" in text
    assert text.count("equal: '") == 4, "the golden prompt and three more"
    assert ("equal: 'yes'" if name == "yes" else "[7]") in text
    assert "DIFFERENT" not in text
    assert "is served as it was trained" in text
    report = verify_served(live.store.get(parse_ref(name)), live.url, api_key=live.key)
    differences = [parity.logprob_difference for parity in report.prompts]
    assert all(d is not None and d < 0.1 for d in differences), report.prompts


def test_other_bytes_under_the_same_name_are_found(live: Live, tmp_path: Path) -> None:
    other = AdapterStore(tmp_path / "store")
    train(tmp_path / "no", live.base, other, "yes", answer="no!")
    asked = ("verify", "yes", "--store", other.root, "--server", live.url)
    code, text = invoke(*asked, "--api-key", live.key)
    assert code == 1, text
    assert "OTHER BYTES" in text
    assert "DIFFERENT" in text, f"no answer parts by more than {NEAR_TIE} logits"
    assert "the server doesn't serve what was trained" in text


def test_a_server_that_wants_a_key_says_so(live: Live) -> None:
    code, text = invoke("verify", "yes", "--store", live.store.root, "--server", live.url)
    assert code == 1
    assert "answers 401" in text


def test_a_served_adapter_judges_a_run(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, live.key)
    asked = {"url": live.url, "model": "critic", "api_key_env": KEY_VARIABLE}
    result = train(
        live.folder / "judged", live.base, live.store, "judged", answer="yes",
        evaluation={
            "metrics": ["exact_match", "judge"], "max_rows": 3, "answer_tokens": 8, "judge": asked
        },
    )  # fmt: skip
    metrics = result.metrics
    assert (metrics["eval_judge"], metrics["eval_judge_base"]) == (7, 7)
    assert (metrics["eval_judge_rated"], metrics["eval_judge_unparseable"]) == (3, 0)
    assert metrics["eval_exact_match"] == 100
    report = json.loads((result.folder.path / "evaluation.json").read_text(encoding="utf-8"))
    verdicts = [row["verdicts"]["judged"] for row in report["rows"]]
    assert verdicts == [{"rating": 7, "reply": RATING}] * 3


def test_eval_asks_the_server_for_answers_and_verdicts(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, live.key)
    data = tmp_path / "held.jsonl"
    rows = [{"instruction": f"item {i}?", "output": "yes"} for i in (3, 100)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked = (
        "eval", "yes", "--data", data, "--store", live.store.root, "--server", live.url,
        "--api-key", live.key, "--metrics", "exact_match,judge", "--answer-tokens", 8,
        "--judge-url", live.url, "--judge-key-env", KEY_VARIABLE, "--out", tmp_path / "out",
    )  # fmt: skip
    code, text = invoke(*asked, "--judge-model", "critic")
    assert code == 0, text
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    figures = report["figures"]
    assert (figures["yes@1"]["exact_match"], figures["base"]["exact_match"]) == (100, 0)
    assert (figures["yes@1"]["judge"], figures["yes@1"]["judge_rated"]) == (7, 2)
    assert [row["answers"]["yes@1"] for row in report["rows"]] == ["yes", "yes"]

    code, text = invoke(*asked, "--judge-model", Path(live.base).name)
    assert code == 0, text
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    figures = report["figures"]["yes@1"]
    assert "judge" not in figures, "a random model's words are counted, and no rating is made up"
    assert (figures["judge_rated"], figures["judge_unparseable"]) == (0, 2)
    code, text = invoke(*asked, "--judge-model", Path(live.base).name, "--judge-held-to-form")
    assert code == 0, text
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))
    assert report["figures"]["yes@1"]["judge_rated"] == 2, "held to the form, noise is a rating"


def test_a_judge_that_is_refused_is_told(live: Live) -> None:
    with pytest.raises(EvaluationError, match=r"refused to answer as critic.*key"):
        chat(live.url, "critic", None, max_tokens=4)("Hello", judging.RATING)
    with pytest.raises(EvaluationError, match=r"refused to answer as nobody.*nobody"):
        chat(live.url, "nobody", live.key, max_tokens=4)("Hello", judging.RATING)
