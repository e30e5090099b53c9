"""AdaLoRA: PEFT's own penalty and budget, under our loop."""

from pathlib import Path

import torch

from tests.unit.trainer.methods.runs import NUM_STEPS, ROWS, attach, config, loaded, logits, train
from trainer.batches.collator import collate_rows


def test_the_penalty_is_what_peft_adds_where_the_model_has_the_loss(tiny_base: Path) -> None:
    settings = config(tiny_base, method="adalora", adalora={"orth_reg_weight": 0.3})
    tuning = attach(loaded(settings), settings)
    penalty = tuning.penalty(tuning.model)
    assert penalty is not None
    batch = collate_rows(ROWS, pad_id=0)
    with torch.no_grad():
        regularised = tuning.model(**batch).loss
        plain = tuning.model.base_model.model(**batch).loss
    torch.testing.assert_close(regularised - plain, penalty.detach(), atol=1e-4, rtol=0)
    off = config(tiny_base, method="adalora", adalora={"orth_reg_weight": 0})
    assert attach(loaded(off), off).penalty(tuning.model) is None


def test_ranks_fall_to_the_target_and_move_between_modules(tiny_base: Path) -> None:
    ranks = {"init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 3, "deltaT": 1}
    settings = config(tiny_base, method="adalora", adalora=ranks)
    tuning = attach(loaded(settings), settings)
    train(tuning)
    masks = tuning.model.peft_config["default"].rank_pattern
    left = [sum(mask) for mask in masks.values()]
    assert sum(left) == 2 * 14
    assert min(left) < max(left)


def test_a_state_is_enough_to_go_on(tiny_base: Path) -> None:
    settings = config(tiny_base, method="adalora", adalora={"tinit": 1, "tfinal": 4, "deltaT": 1})
    tuning = attach(loaded(settings), settings)
    train(tuning, steps=NUM_STEPS // 2)
    weights = {n: p.detach().clone() for n, p in tuning.model.named_parameters() if p.requires_grad}
    state = tuning.state()

    other = attach(loaded(settings), settings)
    with torch.no_grad():
        for name, parameter in other.model.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    other.restore(other.model, state)
    for each in (tuning, other):
        each.model.train()
        batch = collate_rows(ROWS, pad_id=0)
        each.model(**batch).loss.backward()
        each.after_optimizer_step(each.model, NUM_STEPS - 4)
    assert tuning.model.peft_config["default"].rank_pattern \
        == other.model.peft_config["default"].rank_pattern  # fmt: skip
    torch.testing.assert_close(logits(other.model), logits(tuning.model), atol=0, rtol=0)


def test_modules_that_lost_all_ranks_drop_out(tiny_base: Path, tmp_path: Path) -> None:
    settings = config(tiny_base, method="adalora")
    tuning = attach(loaded(settings), settings)
    train(tuning, steps=3)
    layer = tuning.model.base_model.model.model.layers[0].mlp.up_proj
    layer.lora_E["default"].data.zero_()
    trained = logits(tuning.model)
    tuning.write(tmp_path, torch.float32)
    text = (tmp_path / "adapter_config.json").read_text()
    assert "model.layers.1.mlp.up_proj" in text
    assert "model.layers.0.mlp.up_proj" not in text
    torch.testing.assert_close(logits(tuning.published(tmp_path)), trained, atol=1e-5, rtol=0)
