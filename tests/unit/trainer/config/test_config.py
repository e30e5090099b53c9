"""The YAML schema: overrides, nearest names, all problems at once."""

from pathlib import Path

import pytest

from trainer.config import TrainerConfig
from trainer.config.loading import all_keys, load_config
from trainer.errors import ConfigError

SMALLEST = """
name: polite
base: embedded:smollm2-135m-instruct
data:
  train: data/train.jsonl
"""


def write(folder: Path, text: str = SMALLEST) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(path: Path, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return caught.value.problems


def test_smallest_config_has_defaults_for_everything_else(tmp_path: Path) -> None:
    config = load_config(write(tmp_path)).config
    assert config.method == "qlora"
    assert (config.lora.r, config.alpha, config.lora.dropout) == (16, 32, 0.05)
    assert config.learning_rate == 2e-4
    assert config.data.eval == 0.05
    assert config.publish.gate == "eval_loss < base"


def test_data_paths_are_relative_to_the_config(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path))
    assert loaded.data_path("data/train.jsonl") == tmp_path.resolve() / "data" / "train.jsonl"
    assert loaded.data_path("/abs/x.csv") == Path("/abs/x.csv")


def test_overrides_reach_every_depth(tmp_path: Path) -> None:
    overrides = [
        "--lora.r",
        "8",
        "--seed=3",
        "--training.learning-rate",
        "1e-3",
        "--data.eval",
        "x",
    ]
    overrides += ["--lora.target_modules", "q_proj,v_proj", "--publish.alias", "false"]
    config = load_config(write(tmp_path), overrides).config
    assert (config.lora.r, config.alpha, config.seed) == (8, 16, 3)
    assert config.training.learning_rate == 1e-3
    assert config.data.eval == "x"
    assert config.lora.target_modules == ("q_proj", "v_proj")
    assert config.publish.alias is False


def test_lists_are_overridden_in_yaml(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["--lora.target_modules", "[q_proj, o_proj]"]).config
    assert config.lora.target_modules == ("q_proj", "o_proj")


def test_all_problems_come_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST + "trainning: {epochs: 2}\nlora: {rank: 4, r: 0, alpa: 3}\n")
    problems = problems_of(path, "--training.epochs", "none", "--learning_rate", "1", "--x")
    text = "\n".join(problems)
    assert "trainning: unknown key; did you mean training?" in text
    assert "lora.alpa: unknown key; did you mean lora.alpha?" in text
    assert "lora.rank: unknown key; there are: lora.r" in text
    assert "lora.r: input should be greater than or equal to 1 (it is 0)" in text
    assert "training.epochs: input should be a valid integer" in text
    assert "learning_rate: unknown key; did you mean training.learning_rate?" in text
    assert "--x has no value" in text
    assert len(problems) == 7


def test_missing_keys_are_named(tmp_path: Path) -> None:
    problems = problems_of(write(tmp_path, "name: a\n"))
    assert problems == ("base: missing; it has no default", "data: missing; it has no default")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["--name", "no/slash"], "name: "),
        (["--name", "polite@3"], "without '@'"),
        (["--evaluation.metrics", "bleu,meteor"], "evaluation.metrics: "),
        (["--evaluation.metrics", "judge"], "evaluation.judge.url: missing"),
        (["--evaluation.metrics", "bleu,pairwise"], "evaluation.metrics has pairwise in it"),
        (["--evaluation.judge.model", "j"], "evaluation.judge.model: has no effect without judge"),
        (["--adalora.init_r", "4"], "adalora: has no effect with method qlora; it is for adalora"),
        (["--method", "adalora", "--adalora.init_r", "8"], "target_r: 8 must be below"),
        (["--method", "adalora", "--lora.r", "8"], "lora.r: has no effect with method adalora"),
        (["--method", "dora", "--lora.init", "pissa"], "DoRA's magnitudes"),
        (["--method", "lora", "--lora.init", "loftq"], "this base isn't quantised"),
        (["--method", "lora", "--lora.init", "qera"], "this base isn't quantised"),
        (["--lora.init", "orthogonal"], "needs an unquantised base"),
        (["--lora.init", "pisa"], "lora.init: use one of default, gaussian"),
        (["--quantization.scheme", "none"], "write method: lora"),
        (["--method", "p_tuning", "--prompt.init_text", "x"], "it is for prompt_tuning"),
        (["--method", "full", "--quantization.scheme", "nf4"], "quantization can't be given"),
        (["--preference.beta", "1"], "no effect with objective sft"),
        (["--data.format", "preference"], "preference rows are for objectives dpo, orpo, kto"),
        (["--method", "lra"], "method: "),
        (["--data.eval", "1.5"], "share of train must be above 0 and below 1"),
        (["--publish.gate", "loss is low"], "is no gate"),
        (["--evaluation.every", "0"], "every 1 or more steps"),
        (["--method", "lora", "--quantization.scheme", "fp4"], "quantization has no effect"),
        (["--name.first", "x"], "name has no keys under it"),
        (["training.epochs", "3"], "'training.epochs' is not an override"),
        (["--seed", "[1"], "is not YAML"),
    ],
)
def test_a_bad_value_is_explained(tmp_path: Path, override: list[str], message: str) -> None:
    assert any(message in problem for problem in problems_of(write(tmp_path), *override))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--data.packing true", "data.packing: not with objective dpo"),
        ("--data.streaming true", "data.streaming: not with objective dpo"),
        ("--data.over_length truncate", "data.over_length: truncate: not with objective dpo"),
        ("--data.cleaning.roles repair", "data.cleaning.roles: repair: not with objective dpo"),
        ("--data.format text", "data.format: text rows have one answer"),
        ("--preference.label_smoothing 0.1", "label_smoothing: is for loss robust, as in TRL"),
        ("--preference.desirable_weight 2", "no effect with objective dpo; it is for kto"),
    ],
)
def test_what_preferences_do_not_take_is_refused_by_name(
    tmp_path: Path, override: str, message: str
) -> None:
    (problem,) = problems_of(write(tmp_path), "--objective", "dpo", *override.split())
    assert message in problem


def test_one_line_for_a_union_that_fits_nothing(tmp_path: Path) -> None:
    problems = problems_of(write(tmp_path), "--evaluation.every", "weekly")
    assert len(problems) == 1
    assert problems[0].startswith("evaluation.every: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "must hold keys and values, not list"),
        ("a: [1\n", "is not YAML"),
        ("seed: 1\nseed: 2\n", "seed: given twice (line 2)"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, message: str) -> None:
    assert message in problems_of(write(tmp_path, text))[0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none.yaml") == (f"no config file {tmp_path / 'none.yaml'}",)


def test_sections_are_frozen(tmp_path: Path) -> None:
    config = load_config(write(tmp_path)).config
    with pytest.raises(ValueError, match="frozen"):
        config.lora.r = 3  # type: ignore[misc]


def test_all_keys_are_dotted_and_complete() -> None:
    keys = all_keys()
    assert {"name", "data.train", "lora.r", "training.batch_tokens", "publish.gate"} <= set(keys)
    assert "lora" not in keys


def test_written_config_loads_again(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["--lora.target_modules", "q_proj"]).config
    assert TrainerConfig.model_validate(config.document()) == config
