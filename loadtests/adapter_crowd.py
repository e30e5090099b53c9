"""A store with very many random adapters, written quickly."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from adapters.store import AdapterStore
from loadtests.adapters_factory import base_module_shapes, write_random_adapter

_WEIGHTS = "adapter_model.safetensors"


def adapter_names(num_adapters: int) -> list[str]:
    """The names that `publish_crowd` gives, in order."""
    return [f"crowd-{index:04d}" for index in range(num_adapters)]


def publish_crowd(
    store_root: Path, scratch: Path, base_reference: str, num_adapters: int, rank: int
) -> Iterator[tuple[int, int]]:
    """Publish so many adapters; yields after each how many there are and its size in bytes.

    They have the same random values but for one small matrix: files and digests differ, which is
    all that speed asks, and nothing waits for billions of random numbers. Works in a folder in
    `scratch` and deletes it.
    """
    folder = write_random_adapter(
        scratch / "template", base_module_shapes(base_reference), rank=rank, seed=0,
        base_reference=base_reference,
    )  # fmt: skip
    tensors = load_file(folder / _WEIGHTS)
    changing = min((name for name in tensors if "lora_B" in name), key=lambda n: tensors[n].numel())
    generator = torch.Generator().manual_seed(1)
    store = AdapterStore(store_root)
    try:
        for done, name in enumerate(adapter_names(num_adapters), 1):
            values = torch.randn(tensors[changing].shape, generator=generator) * 0.01
            tensors[changing] = values.to(torch.bfloat16)
            save_file(tensors, folder / _WEIGHTS)
            yield done, store.import_folder(name, folder, source="loadtests").size_bytes
    finally:
        shutil.rmtree(folder)
