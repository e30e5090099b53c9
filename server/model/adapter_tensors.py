"""An adapter's files in memory: its config, and its tensors by module and role."""

from pathlib import Path

import torch
from safetensors import safe_open

from adapters.adapter_config import AdapterConfig, parse_adapter_config, read_adapter_config
from adapters.tensor_roles import TensorRole, parse_tensor_key

ModuleTensors = dict[TensorRole, torch.Tensor]


def read_config(folder: Path) -> AdapterConfig:
    """Raises `ValueError` with all that is wrong, or `DocumentError`."""
    problems: list[str] = []
    config = parse_adapter_config(read_adapter_config(folder / "adapter_config.json"), problems)
    if config is None or problems:
        raise ValueError("; ".join(problems))
    return config


def read_tensors(path: Path) -> dict[str, ModuleTensors]:
    """Module -> tensors by role ("" holds virtual tokens); copies of base weights are left out.

    Raises `ValueError` for a tensor of unknown meaning, or with NaN or infinite values.
    """
    modules: dict[str, ModuleTensors] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - safe_open isn't a mapping
            key = parse_tensor_key(name)
            if key is None:
                raise ValueError(f"tensor {name[:200]} is of unknown meaning")
            if key.role is TensorRole.BASE_COPY:
                continue
            tensor = file.get_tensor(name)
            if not torch.isfinite(tensor).all():
                raise ValueError(f"tensor {name[:200]} holds NaN or infinite values")
            modules.setdefault(key.module, {})[key.role] = tensor
    if not modules:
        raise ValueError(f"{path.name} holds no tensor of an adapter")
    return modules
