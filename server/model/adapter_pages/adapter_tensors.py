"""An adapter's image as tensors: its config, and its tensors by module and role."""

from collections.abc import Mapping

import torch

from adapters.format.adapter_config import AdapterConfig, parse_adapter_config
from adapters.format.adapter_image import AdapterImage
from adapters.format.tensor_roles import TensorRole, parse_tensor_key

ModuleTensors = dict[TensorRole, torch.Tensor]

_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def config_of(image: AdapterImage) -> AdapterConfig:
    """Raises `ValueError` with all that is wrong."""
    problems: list[str] = []
    config = parse_adapter_config(image.config, problems)
    if config is None or problems:
        raise ValueError("; ".join(problems))
    return config


def tensors_of(image: AdapterImage) -> dict[str, ModuleTensors]:
    """Module -> tensors by role ("" holds virtual tokens); copies of base weights are left out.

    The tensors are views of the image. Raises `ValueError` for one of unknown meaning or type.
    """
    modules: dict[str, ModuleTensors] = {}
    for name, entry in image.entries.items():
        key = parse_tensor_key(name)
        if key is None:
            raise ValueError(f"tensor {name[:200]} is of unknown meaning")
        if key.role is TensorRole.BASE_COPY:
            continue
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            raise ValueError(f"tensor {name[:200]} is of type {entry.dtype}, which isn't served")
        num_elements = (entry.end - entry.begin) // dtype.itemsize
        tensor = (
            _view(image.data, dtype, num_elements, entry.begin)
            if num_elements
            else torch.empty(0, dtype=dtype)
        )
        modules.setdefault(key.module, {})[key.role] = tensor.view(entry.shape)
    if not modules:
        raise ValueError("it holds no tensor of an adapter")
    return modules


def _view(data: bytearray, dtype: torch.dtype, num_elements: int, begin: int) -> torch.Tensor:
    """Torch wants a type's values at multiples of its size; a header may end anywhere."""
    if begin % dtype.itemsize == 0:
        return torch.frombuffer(data, dtype=dtype, count=num_elements, offset=begin)
    part = data[begin : begin + num_elements * dtype.itemsize]
    return torch.frombuffer(part, dtype=dtype, count=num_elements)
