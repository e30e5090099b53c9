"""A method is its record: one more is one more file, and nobody else asks which method it is."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import trainer
from trainer.config.method import Method
from trainer.methods.registry import METHOD_SECTIONS, METHODS

PACKAGE = Path(trainer.__file__).parent
ROOT = PACKAGE.parent

LORA_FA = '''
"""LoRA-FA (arXiv:2308.03303): A stays as it was drawn, and B alone is trained."""

from typing import ClassVar

from pydantic import Field

from trainer.config.section import Section
from trainer.methods.lora_family import LORA_SECTION, LoraMethod
from trainer.methods.method import MethodSection


class LoraFaSection(Section):
    """LoRA-FA; method lora_fa."""

    gain: float = Field(default=1.0, gt=0, description="factor of A's drawn values")


SECTION = MethodSection("lora_fa", LoraFaSection, "method lora_fa")


class LoraFa(LoraMethod):
    name = "lora_fa"
    sections: ClassVar = (LORA_SECTION, SECTION)
    learning_rate = 1e-2

    def describe_rank(self, config):
        return f"{super().describe_rank(config)} (B alone)"

    def count_in_module(self, config, rank, shape):
        return rank * shape[1]

    def attach(self, start):
        tuning = super().attach(start)
        for name, parameter in tuning.model.named_parameters():
            if ".lora_A." in name:
                parameter.data.mul_(SECTION.of(start.config).gain)
                parameter.requires_grad_(False)
        return tuning
'''


@pytest.fixture
def other_trainer(tmp_path: Path) -> Path:
    """A folder with this `trainer` in which one file is new and one has two lines more."""
    skip = shutil.ignore_patterns("__pycache__")
    folder = tmp_path / "package"
    shutil.copytree(PACKAGE, folder / "trainer", ignore=skip)
    methods = folder / "trainer" / "methods"
    (methods / "lora_fa.py").write_text(LORA_FA, encoding="utf-8")
    registry = methods / "registry.py"
    before = registry.read_text(encoding="utf-8")
    line = "from trainer.methods.lora import Lora\n"
    after = before.replace(line, f"{line}from trainer.methods.lora_fa import LoraFa\n")
    after = after.replace("    Full(),\n", "    Full(),\n    LoraFa(),\n")
    assert len(after.splitlines()) == len(before.splitlines()) + 2
    registry.write_text(after, encoding="utf-8")
    return folder


def run_trainer(package: Path, folder: Path, *arguments: str | Path) -> tuple[int, str]:
    paths = os.pathsep.join((str(package), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "trainer", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_a_new_record_is_in_the_schema_in_a_first_config_and_in_errors(
    other_trainer: Path, tmp_path: Path
) -> None:
    code, schema = run_trainer(other_trainer, tmp_path, "schema")
    assert code == 0, schema
    fields = json.loads(schema)["properties"]
    assert fields["method"]["enum"] == [*METHODS, "lora_fa"]
    assert list(fields).index("lora_fa") == list(fields).index("prompt") + 1

    code, output = run_trainer(
        other_trainer, tmp_path, "init", "c.yaml", "--method", "lora_fa", "--name", "polite"
    )
    assert code == 0, output
    assert "#  gain: 1.0" in (tmp_path / "c.yaml").read_text(encoding="utf-8")

    code, output = run_trainer(
        other_trainer, tmp_path, "check", "c.yaml", "--method", "qlora", "--lora_fa.gain", "2"
    )
    assert code != 0
    assert "lora_fa: has no effect with method qlora; it is for lora_fa" in output
    code, output = run_trainer(
        other_trainer, tmp_path, "check", "c.yaml", "--lora_fa.gain", "-1", "--method", "lorafa"
    )
    assert "lora_fa.gain: input should be greater than 0" in output
    assert "'full' or 'lora_fa'" in output


@pytest.mark.slow
def test_a_new_record_is_checked_planned_trained_and_published(
    other_trainer: Path, tiny_base: Path, tmp_path: Path
) -> None:
    rows = [
        {"instruction": f"item {i * 7 % 41}?", "input": "", "output": "Thank you!"}
        for i in range(41)
    ]
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "train.jsonl").write_text(text, encoding="utf-8")
    document = {
        "name": "polite",
        "base": str(tiny_base),
        "method": "lora_fa",
        "data": {"train": "train.jsonl"},
        "lora": {"r": 4},
        "lora_fa": {"gain": 2.0},
        "training": {"epochs": 2, "batch_tokens": 512},
        "evaluation": {"samples": 0},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    code, output = run_trainer(other_trainer, tmp_path, "check", "c.yaml", "--no-trial")
    assert code == 0, output
    assert "lora_fa; rank 4 (B alone), alpha 8" in output
    assert "what is trained" in output
    assert "all checks passed" in output

    code, output = run_trainer(other_trainer, tmp_path, "run", "c.yaml")
    assert code == 0, output
    assert "published polite@1" in output
    (published,) = (tmp_path / "var" / "adapters").rglob("adapter_config.json")
    config = json.loads(published.read_text(encoding="utf-8"))
    assert (config["peft_type"], config["r"]) == ("LORA", 4)
    card = (published.parent / "README.md").read_text(encoding="utf-8")
    assert "lora_fa" in card


def test_nobody_else_asks_which_method_it_is() -> None:
    methods = PACKAGE / "methods"
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if methods not in path.parents
        for line in decisions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "if config.method == 'full': pass",
        "x = 1 if run.config.method in FAMILY else 2",
        "match config.method:\n    case 'lora': pass",
        "rate = {'ia3': 1}.get(config.method)",
        "y = method in ('lora', 'full')",
        "z = isinstance(config.training_method, LoraMethod)",
    ],
)
def test_a_decision_is_seen(text: str) -> None:
    assert list(decisions(ast.parse(text)))


def test_every_record_says_what_it_is_called_and_reads_known_sections() -> None:
    assert list(METHODS) == list(Method.__args__)
    assert [section.name for section in METHOD_SECTIONS] == ["lora", "adalora", "ia3", "prompt"]
    for method in METHODS.values():
        keys = {f"{s.name}.{key}" for s in method.sections for key in s.model.model_fields}
        assert method.ignored_keys <= keys


def decisions(tree: ast.AST) -> Iterator[int]:
    """Lines on which code does one thing for this method and another for that."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare():
                sides = [node.left, *node.comparators]
                asked = any(is_method(side) or names_methods(side) for side in sides)
            case ast.Match():
                asked = is_method(node.subject)
            case ast.MatchValue():
                asked = names_methods(node.value)
            case ast.Dict():
                asked = any(key is not None and names_methods(key) for key in node.keys)
            case ast.Call(func=ast.Name(id="isinstance"), args=[asked_of, *_]):
                asked = isinstance(asked_of, ast.Attribute) and asked_of.attr == "training_method"
            case _:
                asked = False
        if asked:
            yield node.lineno  # type: ignore[attr-defined]


def is_method(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "method"


def names_methods(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(names_methods(element) for element in node.elts)
    return isinstance(node, ast.Constant) and node.value in METHODS
