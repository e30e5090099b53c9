"""The model card: README.md beside a published adapter."""

from collections.abc import Mapping, Sequence

from trainer.config import TrainerConfig
from trainer.data.preparation import PreparedData
from trainer.evaluate.samples import Sample, samples_markdown
from trainer.methods.quantization import quantization_for
from trainer.metrics.pairwise import Outcome
from trainer.publish.objective_text import describe_objective, loss_name

_CARD = """\
---
library_name: peft
base_model: {base}
tags: [{method}, switchyard]
---
# {name}

A {method} adapter for `{base}`, trained with Switchyard.

{figures}

The loss is of {num_eval} held-out rows that were not trained on, on {held}, with the weights as
they are in this folder.{others}{kept_best}

## Training

- rows: {num_train} ({data_format}); data digest `{digest}`
- {description}
- {num_steps} steps, learning rate {learning_rate:g} ({schedule}), seed {seed}
- {objective}

`manifest.json` has the whole config, the base's digest, the chat template and library versions.

## Use

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "path/to/this/folder")
```

or put it into a Switchyard store and request the model `{name}`.
{samples}"""

_KEPT_BEST = """ The published weights are those of the
evaluation with the lowest of these losses, so the figure is a little optimistic."""


def model_card(
    config: TrainerConfig,
    data: PreparedData,
    metrics: Mapping[str, float],
    samples: Sequence[Sample],
) -> str:
    """Markdown with what the adapter is, how it was measured and trained, and how to use it."""
    return _CARD.format(
        name=config.name,
        base=config.base,
        method=config.method,
        figures=_figures(config, metrics),
        held="the same quantised base"
        if quantization_for(config).is_quantized
        else "the same unquantised base",
        others=_others(config, metrics),
        objective=describe_objective(
            config.objective, config.preference, is_text=data.row_format.name == "text"
        ),
        kept_best=_KEPT_BEST if config.evaluation.keep_best else "",
        num_eval=len(data.held_out),
        num_train=len(data.train),
        data_format=data.row_format.description,
        digest=data.digest,
        description=config.training_method.describe(config),
        num_steps=int(metrics["num_steps"]),
        learning_rate=config.learning_rate,
        schedule=config.training.schedule,
        seed=config.seed,
        samples=f"\n## Samples\n\n{samples_markdown(samples)}\n" if samples else "",
    )


_NAMES = {
    "reward_accuracy": "reward accuracy",
    "reward_margin": "reward margin",
    "perplexity": "perplexity",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "exact_match": "exact match, %",
    "judge": "judge's mean rating, 1 to 10",
}


def _figures(config: TrainerConfig, metrics: Mapping[str, float]) -> str:
    """A Markdown table: what was measured of the base and with the adapter."""
    base_loss, loss = metrics["eval_loss_base"], metrics["eval_loss"]
    change = f" ({loss / base_loss - 1:+.1%})" if base_loss > 0 else ""
    lines = [
        "| | base | with this adapter |",
        "|---|---:|---:|",
        f"| held-out {loss_name(config.objective)} | {base_loss:.4f} | {loss:.4f}{change} |",
    ]
    for name, title in _NAMES.items():
        pair = [metrics.get(f"eval_{name}_base"), metrics.get(f"eval_{name}")]
        if pair != [None, None]:
            base, adapter = ("-" if value is None else f"{value:.4g}" for value in pair)
            lines.append(f"| {title} | {base} | {adapter} |")
    return "\n".join(lines)


def _others(config: TrainerConfig, metrics: Mapping[str, float]) -> str:
    """What has to be known of the figures beside the loss."""
    section = config.evaluation
    parts = []
    if set(section.metrics) - {"perplexity"}:
        parts.append(
            f"Answers are greedy, of at most {section.answer_tokens} tokens, to at most "
            f"{section.max_rows} of those rows; all of them are in the run's `evaluation.json`."
        )
    if "eval_pairwise_won" in metrics:
        won, lost, tied, inconsistent, unreadable = (
            f"{metrics[f'eval_pairwise_{outcome}']:.0f}" for outcome in Outcome
        )
        parts.append(
            f"Asked twice which answer is better, with the places swapped, `{section.judge.model}` "
            f"preferred the adapter's {won} times and the base's {lost} times, called {tied} pairs "
            f"equal, changed its verdict on {inconsistent} and gave none on {unreadable}."
        )
    if "eval_judge_rated" in metrics:
        rated, unread = (metrics[f"eval_judge_{name}"] for name in ("rated", "unparseable"))
        parts.append(
            f"The judge is `{section.judge.model}`; of its {rated + unread:.0f} verdicts on the "
            f"adapter's answers {unread:.0f} had no rating in them and don't count."
        )
    return "".join(f" {part}" for part in parts)
