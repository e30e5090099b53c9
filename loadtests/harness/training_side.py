"""One side of `training_turns`: trains, one step for each line that it is sent."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtests.harness.training_turns import SideSpec


class Gate:
    """Lets a training loop take one step, and tells what it was; ends the process at the end."""

    def __init__(self) -> None:
        # What libraries print belongs into the log, not between our answers.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = 0.0

    def ready(self) -> None:
        self._answers.write("ready\n")
        self._answers.flush()
        self._wait()

    def stepped(self, tokens: int, computed_tokens: int, loss: float) -> None:
        """Called at the end of a step; returns when the next one may begin."""
        from trainer.loop.peak_memory import peak_bytes

        seconds = time.perf_counter() - self._began
        import torch

        answer = {
            "tokens": tokens,
            "computed_tokens": computed_tokens,
            "seconds": seconds,
            "peak_bytes": peak_bytes(torch.device("cpu")),
            "loss": loss,
        }
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()
        self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit(0)
        self._began = time.perf_counter()


class _View:
    """Our loop's progress view: a gate at the end of each step."""

    def __init__(self, gate: Gate, tokens: Sequence[tuple[int, int]]) -> None:
        self._gate = gate
        self._tokens = tokens

    def begin(self, num_steps: int, done_steps: int) -> None:
        self._gate.ready()

    def step(self, record: Any) -> None:
        real, computed = self._tokens[record.step - 1]
        self._gate.stepped(real, computed, record.loss)

    def evaluated(self, record: Any) -> None:
        """None is measured before the end."""

    def end(self) -> None:
        """Nothing to close."""


def train_ours(spec: SideSpec, gate: Gate) -> None:
    """The trainer's own loop, as `trainer run` calls it."""
    import yaml
    from rich.console import Console

    from adapters.base.host_memory import save_host_memory
    from trainer.config.loading import load_config
    from trainer.loop.evaluation_callback import Measurement
    from trainer.loop.history import History
    from trainer.loop.loop import Audience, TrainingJob, train_adapter
    from trainer.loop.processes import ALONE
    from trainer.loop.run_folder import create_run_folder
    from trainer.preflight.prepare import prepare_run
    from trainer.quiet import quiet_libraries
    from trainer.run.running import task_of
    from trainer.tuning.attachment import attach_adapter

    save_host_memory()
    quiet_libraries()
    folder = Path(spec.folder)
    document = {
        "name": "measured", "base": spec.base, "method": "qlora", "seed": spec.seed,
        "data": {"train": spec.rows, "packing": spec.packing},
        "lora": {"r": spec.rank, "alpha": 2 * spec.rank, "dropout": 0.0},
        "training": {
            "batch_tokens": spec.step_tokens, "epochs": 20, "max_steps": spec.num_steps,
            "gradient_checkpointing": spec.checkpointing, "checkpoints": {"every": 0},
        },
        "evaluation": {"every": "end", "samples": 0, "keep_best": False},
        "publish": {"gate": "none"},
    }  # fmt: skip
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    ready = prepare_run(load_config(config), Console(stderr=True))
    task = task_of(ready, ALONE)
    rows, plan = ready.data.train.rows, ready.plan
    tuning = attach_adapter(
        ready.base, ready.config, num_steps=plan.num_steps, rows=rows, pad_id=ready.pad_id
    )
    run_folder = create_run_folder(folder / "runs", "measured")
    tokens = [
        (
            sum(len(rows[i]) for i in batch),
            sum(len(rows[i]) for i in batch)
            if spec.packing
            else max(len(rows[i]) for i in batch) * len(batch),
        )
        for batch in plan.batches
    ]
    job = TrainingJob(
        config=ready.config, plan=plan, rows=task.rows, objective=task.objective,
        measure=lambda model: Measurement(0.0), folder=run_folder, hooks=tuning,
    )  # fmt: skip
    audience = Audience(History(run_folder.history), _View(gate, tokens))
    train_adapter(tuning.model, job, audience)


def train_trl(spec: SideSpec, gate: Gate) -> None:
    """TRL's `SFTTrainer` with QLoRA as its documentation has it, everything else its default."""
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        BitsAndBytesConfig,
        TrainerCallback,
    )
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from adapters.base.bitsandbytes_import import import_bitsandbytes
    from adapters.base.reference import resolve_base

    import_bitsandbytes()
    path = str(resolve_base(spec.base).path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        device_map={"": "cpu"},
    )  # fmt: skip
    conversations = [
        json.loads(line)["messages"] for line in Path(spec.rows).read_text().splitlines()
    ]
    data = datasets.Dataset.from_list(
        [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in conversations]
    )
    seen: deque[tuple[int, int]] = deque()

    class _AtGate(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self._loss = float("nan")

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            gate.ready()

        def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                gate.stepped(*seen.popleft(), logs["loss"])

    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(Path(spec.folder) / "trl"), per_device_train_batch_size=spec.step_rows,
            max_steps=spec.num_steps, learning_rate=2e-4, gradient_checkpointing=spec.checkpointing,
            seed=spec.seed, use_cpu=True, logging_steps=1, save_strategy="no", report_to=[],
            disable_tqdm=True, dataloader_pin_memory=False,
        ),
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=spec.rank, lora_alpha=2 * spec.rank, target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[_AtGate()],
    )  # fmt: skip
    collate = trainer.data_collator

    def counted(features: list[Any]) -> Any:
        batch = collate(features)
        mask = batch["attention_mask"]
        seen.append((int(mask.sum()), mask.numel()))
        return batch

    trainer.data_collator = counted
    trainer.train()


KINDS: dict[str, Callable[[SideSpec, Gate], None]] = {"ours": train_ours, "trl": train_trl}


def main() -> None:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    spec = SideSpec(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    KINDS[spec.kind](spec, Gate())


if __name__ == "__main__":
    main()
