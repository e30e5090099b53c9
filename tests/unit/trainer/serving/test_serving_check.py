"""What a server would refuse is said before anything is trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from adapters.base.loading import load_base
from adapters.base.quantization import NF4, UNQUANTIZED
from adapters.compatibility import ServedBase
from adapters.format.manifest import BaseLineage, QuantizationRecord
from adapters.store.store import AdapterStore
from server.api.access.keys import KeyRing
from tests.fakes.api_app import INFO, LIMITS, FakeServing
from tests.fakes.api_keys import make_key
from tests.fakes.api_server import serve
from tests.unit.adapters.peft_folder import manifest, write_folder
from tests.unit.trainer.methods.runs import config
from trainer.config import Method
from trainer.data.labels import ConversationLabeller
from trainer.errors import ServingError
from trainer.methods.targets import BaseGeometry, match_modules
from trainer.publish.lineage import base_lineage, quantization_record
from trainer.serving.serving_check import base_problems, format_note, name_note, serving_problems
from trainer.serving.serving_limits import ServingLimits, limits_of

MODULES = {
    f"model.layers.0.{name}": (64, 64) for name in ("self_attn.q_proj", "self_attn.k_proj",
                                                     "self_attn.v_proj", "mlp.down_proj")
}  # fmt: skip
GEOMETRY = BaseGeometry(64, 1, 64)


def problems(limits: ServingLimits | None = None, **document: Any) -> tuple[str, ...]:
    settings = config("x", **document)
    matched = match_modules(settings, MODULES)
    return serving_problems(
        settings, matched or MODULES, GEOMETRY, limits or ServingLimits(), num_steps=10
    )


@pytest.mark.parametrize("method", [m for m in get_args(Method) if m != "full"])
def test_every_method_that_makes_an_adapter_is_served(method: str) -> None:
    assert problems(method=method) == ()


def test_full_fine_tuning_is_no_adapter() -> None:
    assert "another base" in problems(method="full")[0]


def test_a_rank_over_the_limit_names_the_flag() -> None:
    (problem,) = problems(lora={"r": 65})
    assert "rank 65, and a server takes up to 64" in problem
    assert "--max-lora-rank 65" in problem
    (doubled,) = problems(lora={"r": 33, "init": "pissa"})
    assert "rank 66" in doubled
    (by_pattern,) = problems(lora={"r": 4, "rank_pattern": {"q_proj": 80}})
    assert "rank 80" in by_pattern


def test_pages_are_counted() -> None:
    (problem,) = problems(ServingLimits(max_rank=1000, pages=4), lora={"r": 40})
    assert "fills 5 pages, and a server has 4" in problem


def test_a_method_that_a_server_does_not_serve_and_its_own_name_are_told() -> None:
    limits = ServingLimits(server="http://x", base_id="a", methods=("lora",))
    assert problems(limits, method="adalora") == problems(limits)
    method, name = problems(limits, method="ia3")
    assert method == "method: ia3 is published as ia3, and http://x serves lora"
    assert name.startswith("name: a is what that server calls its base")


def test_the_base_is_compared_by_what_the_server_would_compare(tiny_base: Path) -> None:
    base = load_base(str(tiny_base), NF4)
    labeller = ConversationLabeller(base.tokenizer, base.template.text)
    same = ServedBase(base_lineage(base), quantization_record(base), base.template.hash)
    limits = ServingLimits(server="http://x", served=same, max_model_len=100)
    assert base_problems(base, labeller, 100, limits) == ()
    (length,) = base_problems(base, labeller, 101, limits)
    assert "101 tokens, and http://x takes 100" in length
    lineage = BaseLineage(reference="other", digest=f"sha256:{'1' * 64}")
    full = QuantizationRecord(scheme="none", block_size=64, double_quant=False)
    other = replace(limits, served=ServedBase(lineage, full, "sha256:other"))
    told = base_problems(base, labeller, 1, other)
    assert len(told) == 3
    assert "on http://x: it was trained on the base" in told[0]
    assert base_problems(base, labeller, 1, replace(other, served=None)) == ()


def test_another_format_than_the_default_is_noted_where_no_server_was_asked(
    tiny_base: Path,
) -> None:
    base = load_base(str(tiny_base), UNQUANTIZED)
    assert "start it with --quantization none" in (format_note(base, ServingLimits()) or "")
    assert format_note(base, ServingLimits(server="http://x")) is None
    assert format_note(replace(base, quantization=NF4), ServingLimits()) is None


def test_what_happens_to_the_name(tmp_path: Path) -> None:
    settings = config("x")
    assert name_note(settings.name, None, ServingLimits()) == "a is free"
    taken = ServingLimits(server="http://x", name_is_taken=True)
    hidden = ServingLimits(server="http://x")
    assert "may not see" in name_note(settings.name, None, hidden)
    assert "served by http://x already, from another store" in name_note(settings.name, None, taken)
    store = AdapterStore(tmp_path / "store")
    store.publish("a", write_folder(tmp_path / "adapter"), manifest("a"))
    assert (
        name_note(settings.name, store, ServingLimits()) == "a is there: version 2 comes after a@1"
    )


def test_a_running_server_tells_its_limits() -> None:
    key, record = make_key("a", adapters=["sql@*"])
    with serve(FakeServing(keys=KeyRing([record])).app()) as address:
        with pytest.raises(ServingError, match="doesn't tell its limits"):
            limits_of(address, "sql")
        limits = limits_of(f"{address}/v1", "sql", key)
        assert limits.name_is_taken is True
        assert limits_of(address, "polite", key).name_is_taken is None
    with serve(FakeServing().app()) as open_address:
        assert limits_of(open_address, "mine").name_is_taken is False
    assert limits == ServingLimits(
        server=address,
        base_id=INFO.base_id,
        served=LIMITS.served,
        max_model_len=INFO.max_model_len,
        name_is_taken=True,
    )


def test_no_server_is_one_sentence() -> None:
    with pytest.raises(ServingError, match="no Switchyard server answers at"):
        limits_of("http://127.0.0.1:9", "sql")
