"""The whole model floor from a folder on disk, in every weight format and on every backend."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from adapters.base.errors import BaseModelError
from adapters.base.loading import load_base
from adapters.base.quantization import NF4, UNQUANTIZED, QuantizationSpec
from adapters.base.training_guard import prepare_for_training
from server.core.batch import ScheduledBatch, ScheduledRow
from server.core.errors import ConfigurationError
from server.core.request import SamplingParams
from server.model.assembly import AssembledModel, ModelSettings, assemble_model, num_token_ids
from server.model.forward.native_description import HeadFormat
from server.model.step.runner import TorchRunner
from server.model.step.warm_up import full_step_seconds
from server.native.build import InstructionSet, load_native
from tests.unit.adapters.base.tiny_base import save_tokenizer
from tests.unit.server.model.tiny import CONFIGS

PROMPT = [5, 9, 17, 33, 65, 129, 3, 80, 41]
FORMATS = {
    "nf4": NF4,
    "nf4-single": QuantizationSpec(double_quant=False),
    "fp4": QuantizationSpec(scheme="fp4"),
    "none": UNQUANTIZED,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny-llama"
    transformers.set_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.08)
    model.save_pretrained(path)
    save_tokenizer(path)
    return path


def settings(folder: Path, **changes: Any) -> ModelSettings:
    values: dict[str, Any] = {
        "base": str(folder),
        "quantization": NF4,
        "device": "cpu",
        "dtype": "auto",
        "backend": "reference",
        "max_model_len": 64,
        "block_size": 4,
        "kv_cache_gib": 0.001,
        "num_adapter_pages": 2,
        "max_batch_tokens": 64,
        "max_num_sequences": 4,
    }
    return ModelSettings(**{**values, **changes})


def logits(model: AssembledModel) -> torch.Tensor:
    runner: Any = model.runner
    sampling = SamplingParams(max_tokens=1)
    row = ScheduledRow(0, PROMPT, 0, [3, 1, 2], (), sampling, True, 0, 0)
    return runner.logits(ScheduledBatch((row,)))[0].float()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("backend", "dtype", "atol"), [("reference", "float32", 1e-4), ("native", "bfloat16", 0.05)]
)
def test_served_logits_equal_transformers_on_the_same_weights(
    folder: Path, name: str, backend: str, dtype: str, atol: float
) -> None:
    if backend == "native" and load_native() is None:
        pytest.skip("no native kernels on this machine")
    spec = FORMATS[name]
    oracle = load_base(str(folder), spec, dtype=torch.float32)
    prepare_for_training(oracle.model)
    with torch.no_grad():
        expected = oracle.model(torch.tensor([PROMPT])).logits[0, -1]
    served = assemble_model(settings(folder, quantization=spec, backend=backend, dtype=dtype))
    assert served.backend == backend
    torch.testing.assert_close(logits(served), expected, atol=atol, rtol=0)


@pytest.mark.parametrize(("head_format", "atol"), [("int8", 0.05), ("nf4", 0.3)])
def test_a_quantised_head_is_close(folder: Path, head_format: HeadFormat, atol: float) -> None:
    if load_native() is None:
        pytest.skip("no native kernels on this machine")
    exact = logits(assemble_model(settings(folder, backend="native")))
    model = assemble_model(settings(folder, backend="native", head_format=head_format))
    torch.testing.assert_close(logits(model), exact, atol=atol, rtol=0)
    assert not torch.equal(logits(model), exact)


@pytest.mark.parametrize("head_format", ["bfloat16", "int8", "nf4"])
def test_int8_arithmetic_is_close(
    folder: Path, head_format: HeadFormat, caplog: pytest.LogCaptureFixture
) -> None:
    library = load_native()
    if library is None or not library.instruction_set.multiplies_bytes:
        pytest.skip("int8 arithmetic needs AVX512-VNNI")
    exact = assemble_model(settings(folder, backend="native", head_format=head_format))
    with caplog.at_level(logging.INFO, "server.model.assembly"):
        rounded = assemble_model(
            settings(folder, backend="native", head_format=head_format, arithmetic="int8")
        )
    assert "backend native, int8 arithmetic" in caplog.text
    torch.testing.assert_close(logits(rounded), logits(exact), atol=0.05, rtol=0)
    assert not torch.equal(logits(rounded), logits(exact))
    sizes = [model.runner.memory_bytes()["weights"] for model in (exact, rounded)]
    assert sizes[0] == sizes[1], "no second copy of the base"


def test_int8_arithmetic_without_its_kernels_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    avx2 = load_native(InstructionSet.AVX2)
    if avx2 is None:
        pytest.skip("no native kernels on this machine")
    monkeypatch.setattr("server.model.assembly.load_native", lambda: avx2)
    with pytest.raises(ConfigurationError, match=r"needs AVX512-VNNI .* runs avx2"):
        assemble_model(settings(folder, backend="native", arithmetic="int8"))


def test_formats_differ_and_four_bits_are_smaller(folder: Path) -> None:
    sizes, outputs = {}, {}
    for name, spec in FORMATS.items():
        model = assemble_model(settings(folder, quantization=spec, dtype="float32"))
        sizes[name] = model.runner.memory_bytes()["weights"]
        outputs[name] = logits(model)
    assert sizes["nf4"] < sizes["nf4-single"] < sizes["none"]
    assert (outputs["nf4"] - outputs["fp4"]).abs().max() > 0.01
    assert (outputs["nf4"] - outputs["none"]).abs().max() > 0.01


def test_the_window_is_bounded_by_the_cache(folder: Path) -> None:
    tokens = 20 * 4
    bytes_a_token = 3 * 2 * (16 + 16) * 4
    model = assemble_model(
        settings(
            folder,
            max_model_len=None,
            dtype="float32",
            kv_cache_gib=tokens * bytes_a_token / (1 << 30),
        )
    )
    assert model.num_blocks == 20
    assert model.max_model_len == tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_model_len": 4096}, "max_model_len is 4096; this model's window is 256"),
        ({"kv_cache_gib": 1e-9}, "kv_cache_gib"),
        ({"backend": "native", "dtype": "float32"}, "compute in bfloat16"),
        ({"arithmetic": "int8"}, "arithmetic is int8, which only the native CPU kernels have"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        assemble_model(settings(folder, **changes))


def test_cuda_without_a_gpu_is_refused(folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigurationError, match="use --device cpu"):
        assemble_model(settings(folder, device="cuda"))


def test_a_missing_base_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError):
        assemble_model(settings(tmp_path / "none"))


class PaddedModel:
    """Its head is wider than its embedding, and draws what the embedding doesn't have."""

    keeps_states = False

    def forward(self, step: Any, cache: Any) -> torch.Tensor:
        return torch.tensor([[0.0, 1.0, 0.5, 9.0]])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_id_beyond_the_tables_is_never_drawn(folder: Path, temperature: float) -> None:
    runner: Any = assemble_model(settings(folder)).runner
    padded = TorchRunner(
        PaddedModel(), runner._cache, runner._bank, weight_bytes=0, device="cpu", num_drawable=3
    )
    sampling = SamplingParams(max_tokens=1, temperature=temperature)
    for seed in range(20):
        row = ScheduledRow(0, PROMPT, 0, [3, 1, 2], (), sampling, True, seed, 0)
        assert padded.execute(ScheduledBatch((row,))).token_ids[0] < 3


def test_token_ids_are_what_embedding_head_and_config_all_have() -> None:
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    size = model.config.vocab_size
    assert num_token_ids(model) == size
    model.set_input_embeddings(torch.nn.Embedding(size - 7, model.config.hidden_size))
    assert num_token_ids(model) == size - 7


def test_a_full_step_is_timed_at_the_start_without_leaving_a_trace(folder: Path) -> None:
    first, second = assemble_model(settings(folder)), assemble_model(settings(folder))
    assert first.full_step_seconds > 0
    runner: Any = second.runner
    full_step_seconds(runner, max_batch_tokens=64, max_model_len=64, block_size=4)
    assert torch.equal(logits(first), logits(second))
