"""The model card and the samples in it."""

import io

import yaml
from rich.console import Console

from trainer.config import TrainerConfig
from trainer.data.conversation import Conversation, Turn
from trainer.data.examples import Example, ListedExamples
from trainer.data.formats.formats import FORMATS
from trainer.data.labels import LabelledRow
from trainer.data.preparation import PreparedData
from trainer.evaluate.samples import Sample, choose_examples, sample_table
from trainer.publish.card import model_card

CONFIG = TrainerConfig.model_validate({"name": "poet", "base": "b/c", "data": {"train": "x.jsonl"}})
METRICS = {"eval_loss_base": 3.0, "eval_loss": 1.5, "num_steps": 40.0}


def example(question: str) -> Example:
    conversation = Conversation((Turn("user", question), Turn("assistant", "a")))
    return Example(conversation, LabelledRow((1, 2), (False, True)))


def test_card_has_front_matter_figures_and_samples() -> None:
    train, held_out = (ListedExamples([example(q) for q in asked]) for asked in ("qqq", "e"))
    data = PreparedData(train, held_out, FORMATS[0], 4, {}, "sha256:12", (), {})
    card = model_card(CONFIG, data, METRICS, [Sample("ask", "ref", "no", "line one\nline two")])
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "b/c"
    assert "| held-out loss (nats per token) | 3.0000 | 1.5000 (-50.0%) |" in body
    assert "- rows: 3 (chat messages (OpenAI, UltraChat 200k)); data digest `sha256:12`" in body
    assert "rank 16, alpha 32, dropout 0.05, target modules: all-linear" in body
    assert "- **Adapter:** line one / line two" in body
    assert "Samples" not in model_card(CONFIG, data, METRICS, [])


def test_examples_are_spread_over_the_held_out_rows() -> None:
    rows = [example(str(index)) for index in range(10)]
    chosen = [e.conversation.turns[0].content for e in choose_examples(rows, 3)]
    assert chosen == ["0", "3", "6"]
    assert len(choose_examples(rows[:2], 5)) == 2
    assert choose_examples(rows, 0) == ()


def test_brackets_in_answers_are_text_not_markup() -> None:
    file = io.StringIO()
    Console(file=file, width=100).print(
        sample_table([Sample("[q]", "", "[bold]x", "[/y]")], "poet")
    )
    assert "[bold]x" in file.getvalue()
    assert "[/y]" in file.getvalue()
