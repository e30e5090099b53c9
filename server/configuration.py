"""The server's configuration: flags over SWITCHYARD_* variables over a YAML file over defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.base.reference import DEFAULT_BASE
from server.core.errors import ConfigurationError

ENVIRONMENT_PREFIX = "SWITCHYARD_"


class ServerConfig(BaseModel):
    """Everything that can be set. A value of None is chosen from the device and the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = Field(DEFAULT_BASE, description="Base model: embedded:NAME, a folder, or a hub id")
    store: Path = Field(Path("var/adapters"), description="Folder of the adapter store")
    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="CUDA when there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Compute dtype: bfloat16 where the device has it"
    )
    quantization: Literal["nf4", "fp4", "none"] = Field("nf4", description="Base weight format")
    double_quant: bool = Field(True, description="Quantise the absmax values of 4-bit blocks too")
    backend: Literal["auto", "reference", "native"] = Field(
        "auto", description="Kernels: native where they can be built, else the torch reference"
    )
    head_format: Literal["bfloat16", "int8", "nf4"] = Field(
        "bfloat16", description="Output head of the native backend: smaller is faster, less exact"
    )
    served_model_name: str | None = Field(None, description="Name of the base in requests")
    max_model_len: int | None = Field(None, ge=2, description="Window: prompt and answer, tokens")
    max_num_sequences: int = Field(64, ge=1, description="Sequences in a batch")
    max_batch_tokens: int = Field(
        256,
        ge=1,
        description="Tokens of a step: smaller keeps streams even, larger prefills faster",
    )
    max_prefill_beside_decodes: int | None = Field(
        None, ge=1, description="Prompt tokens of a step while streams decode; None: by device"
    )
    max_waiting: int = Field(1024, ge=1, description="Sequences in the queue before 429")
    block_size: int = Field(16, ge=1, description="Tokens in a KV block")
    kv_cache_gib: float = Field(1.0, gt=0, description="Size of the KV cache")
    prefix_cache: bool = Field(True, description="Reuse KV blocks of equal prefixes")
    adapter_bank_pages: int = Field(
        128, ge=1, description="Adapter pages on the device; a page holds 8 rank components"
    )
    max_lora_rank: int = Field(64, ge=1, description="Largest adapter rank accepted")
    max_adapters_per_step: int = Field(64, ge=1, description="Distinct adapters in a batch")
    host_cache_gib: float = Field(2.0, gt=0, description="Adapters kept in host memory")
    adapter_roots: tuple[Path, ...] = Field(
        (), description="Folders that /v1/load_lora_adapter may read from"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Log level")


def load_config(
    config_file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> ServerConfig:
    """Merge the sources. Raises `ConfigurationError` with every problem of all of them."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    if config_file is not None:
        values.update(_read_yaml(config_file))
    for name, field in ServerConfig.model_fields.items():
        text = environment.get(ENVIRONMENT_PREFIX + name.upper())
        if text is not None:
            is_list = field.annotation == tuple[Path, ...]
            values[name] = text.split(":") if is_list else text
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return ServerConfig.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            name = ".".join(str(part) for part in item["loc"])
            problems.append(f"{name} = {item.get('input')!r}: {item['msg']}")
        raise ConfigurationError(problems) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError([f"{path} can't be read: {error.strerror}"]) from error
    except yaml.YAMLError as error:
        raise ConfigurationError([f"{path} isn't YAML: {error}"]) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigurationError([f"{path} must hold a mapping of settings to values"])
    return loaded
