"""Tiny random models of every architecture that we claim to serve, and adapters made by PEFT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from adapters.base.native.build import NativeLibrary
from adapters.base.native.ops import NativeOps
from adapters.base.native.weights import Arithmetic
from server.core.batch import ScheduledBatch, ScheduledRow, WorkItem
from server.core.request import SamplingParams
from server.core.stack import AdapterVersion
from server.model.bank import AdapterBank
from server.model.generic import GenericModel
from server.model.host_adapter import PagedAdapterLoader
from server.model.kernels.native_kernels import native_backend
from server.model.kv_cache import KVCache
from server.model.native import NativeModel, native_bank
from server.model.page_layout import PageLayout
from server.model.runner import StepModel, TorchRunner

VOCABULARY = 256
WINDOW = 128
BLOCK_SIZE = 4

_COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT = {"n_layer": 3, "n_head": 4, "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}


def _with(name: str, **extra: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**_COMMON, **extra)


CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": _with("LlamaConfig"),
    "mistral-sliding": _with("MistralConfig", sliding_window=8, head_dim=16),
    "qwen2": _with("Qwen2Config"),
    "qwen2-sliding": _with(
        "Qwen2Config", use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3": _with("Qwen3Config", head_dim=16),
    "gemma2": _with("Gemma2Config", head_dim=16, sliding_window=8, query_pre_attn_scalar=16),
    "gemma3": _with("Gemma3TextConfig", head_dim=16, sliding_window=8, query_pre_attn_scalar=16),
    "phi3": _with("Phi3Config"),
    "gpt2": lambda: transformers.GPT2Config(n_embd=64, n_positions=256, **_GPT),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(
        **{k: v for k, v in _COMMON.items() if k != "num_key_value_heads"}
    ),
    "glm": _with("GlmConfig", head_dim=16),
    "glm4": _with("Glm4Config", head_dim=16),
    "granite": _with("GraniteConfig"),
    "bloom": lambda: transformers.BloomConfig(hidden_size=64, pad_token_id=0, **_GPT),
}


def tiny_model(name: str) -> Any:
    """A float32 model with weights random enough that greedy decoding doesn't repeat itself."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval().float()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.08)
    model.generation_config.eos_token_id = None
    return model


def make_adapter(model: Any, folder: Path, *, rank: int, seed: int, **options: Any) -> Any:
    """Give `model` a random LoRA with effect and save it; returns the PeftModel."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2",
        **options,
    )
    peft_model = get_peft_model(model, config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    peft_model.save_pretrained(folder)
    return peft_model.eval()


class TinyEngine:
    """Runner, bank and cache of a tiny model, driven by hand."""

    def __init__(
        self,
        model: Any,
        *,
        num_pages: int = 16,
        library: NativeLibrary | None = None,
        is_generic: bool = False,
        arithmetic: Arithmetic = "bfloat16",
    ) -> None:
        """The generic way in float32; with `library` native kernels in bfloat16.

        Those run the whole step, or with `is_generic` only the linears, adapters and attention.
        """
        dtype = torch.float32 if library is None else torch.bfloat16
        generic = self.generic = GenericModel(model, max_model_len=WINDOW)
        layout = PageLayout.for_modules(generic.module_shapes, generic.norm_sizes)
        bank = AdapterBank(layout, num_pages, dtype=dtype, device="cpu")
        cache = KVCache(
            generic.geometry, num_blocks=256, block_size=BLOCK_SIZE, dtype=dtype, device="cpu"
        )
        step_model: StepModel = generic
        if library is None:
            generic.install_adapters(bank)
        elif is_generic:
            model.to(torch.bfloat16)
            backend = native_backend(NativeOps(library), native_bank(bank), layout, arithmetic)
            generic.install_adapters(bank, backend)
        else:
            step_model = NativeModel(
                library,
                model,
                generic,
                bank,
                cache,
                max_batch_tokens=128,
                max_positions=WINDOW,
                arithmetic=arithmetic,
            )
        self.runner = TorchRunner(step_model, cache, bank, weight_bytes=0, device="cpu")
        source = step_model if isinstance(step_model, NativeModel) else generic
        self.loader = PagedAdapterLoader(layout, dtype, source.facts, source.weights)
        self._next_page = 0

    def load(self, folder: Path, rank: int) -> tuple[int, ...]:
        """Put an adapter into the bank; returns its pages."""
        adapter = self.loader.load(AdapterVersion("x", 1, str(folder), rank, folder))
        pages = tuple(range(self._next_page, self._next_page + adapter.num_pages))
        self._next_page += adapter.num_pages
        self.runner.place_adapter(pages, adapter)
        return pages

    def generate(
        self,
        requests: list[tuple[list[int], list[tuple[tuple[int, ...], float]]]],
        count: int,
        *,
        chunk: int = 7,
        follow: list[list[int]] | None = None,
    ) -> tuple[list[list[int]], list[torch.Tensor]]:
        """Greedy tokens and the logits of each step, of all requests in one mixed batch.

        A request is its prompt and its (pages, scale) pairs. Prompts run in chunks of `chunk`, so
        decodes and prefills meet in one batch when prompts differ in length. `follow` gives the
        tokens to continue with, in place of the model's own choice.
        """
        tokens = [list(prompt) for prompt, _ in requests]
        done = [0] * len(requests)
        tables = [list(range(i * 24, (i + 1) * 24))[::-1] for i in range(len(requests))]
        logits: list[list[torch.Tensor]] = [[] for _ in requests]
        while any(len(logits[i]) < count for i in range(len(requests))):
            rows = []
            for i, (_, stack) in enumerate(requests):
                if len(logits[i]) == count:
                    continue
                ids = tokens[i][done[i] : done[i] + chunk]
                rows.append(
                    ScheduledRow(
                        sequence_id=i,
                        token_ids=ids,
                        start=done[i],
                        block_ids=tables[i],
                        work=[WorkItem(page, scale) for pages, scale in stack for page in pages],
                        sampling=SamplingParams(max_tokens=1, temperature=0.0),
                        samples=done[i] + len(ids) == len(tokens[i]),
                        seed=0,
                        num_generated=0,
                        state_slot=i,
                    )
                )
                done[i] += len(ids)
            rows.sort(key=lambda row: len(row.token_ids) > 1)
            values = self.runner.logits(ScheduledBatch(tuple(rows)))
            for row, value in zip([r for r in rows if r.samples], values, strict=True):
                logits[row.sequence_id].append(value)
                index = len(logits[row.sequence_id]) - 1
                chosen = follow[row.sequence_id][index] if follow else int(value.argmax())
                tokens[row.sequence_id].append(chosen)
        answers = [ids[len(requests[i][0]) :] for i, ids in enumerate(tokens)]
        return answers, [torch.stack(values) for values in logits]


def greedy(model: Any, prompt: list[int], count: int) -> tuple[list[int], torch.Tensor]:
    """What transformers' (or PEFT's) own generate gives: tokens and logits [count, vocabulary]."""
    out = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences[0, len(prompt) :].tolist(), torch.stack(out.logits)[:, 0]
