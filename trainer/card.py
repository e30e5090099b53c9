"""The model card: README.md beside a published adapter."""

from collections.abc import Mapping, Sequence

from trainer.config import TrainerConfig
from trainer.data.preparation import PreparedData
from trainer.methods.description import describe_method
from trainer.samples import Sample, samples_markdown

_CARD = """\
---
library_name: peft
base_model: {base}
tags: [{method}, switchyard]
---
# {name}

A {method} adapter for `{base}`, trained with Switchyard.

| | held-out loss (nats per token) |
|---|---|
| base | {base_loss:.4f} |
| with this adapter | {loss:.4f} ({change:+.1%}) |

Measured on {num_eval} held-out rows that were not trained on, on the same quantised base, with the
weights as they are in this folder.{kept_best}

## Training

- rows: {num_train} ({data_format}); data digest `{digest}`
- {description}
- {num_steps} steps, learning rate {learning_rate:g} ({schedule}), seed {seed}
- loss on the assistant's tokens and the token that ends its turn

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
    base_loss, loss = metrics["eval_loss_base"], metrics["eval_loss"]
    return _CARD.format(
        name=config.name,
        base=config.base,
        method=config.method,
        base_loss=base_loss,
        loss=loss,
        change=loss / base_loss - 1,
        kept_best=_KEPT_BEST if config.evaluation.keep_best else "",
        num_eval=len(data.held_out),
        num_train=len(data.train),
        data_format=data.row_format.description,
        digest=data.digest,
        description=describe_method(config),
        num_steps=int(metrics["num_steps"]),
        learning_rate=config.learning_rate,
        schedule=config.training.schedule,
        seed=config.seed,
        samples=f"\n## Samples\n\n{samples_markdown(samples)}\n" if samples else "",
    )
