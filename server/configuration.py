"""The server's configuration: flags over SWITCHYARD_* variables over a YAML file over defaults."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.base.reference import DEFAULT_BASE
from adapters.environment import COMMAND_VARIABLES, PREFIX, did_you_mean, unknown_variables
from adapters.serving_limits import ADAPTER_PAGES, MAX_LORA_RANK
from server.core.errors import ConfigurationError

ENVIRONMENT_PREFIX = PREFIX

MODEL = "Model"
ADAPTERS = "Adapters"
BATCHING = "Batching"
ACCESS = "Address and keys"
LIMITS = "Limits"
LOGS = "Logs and traces"


def setting(group: str, default: Any, description: str, **bounds: Any) -> Any:
    """A field of `ServerConfig`: `group` is its heading in --help and docs/configuration.md."""
    return Field(default, description=description, json_schema_extra={"group": group}, **bounds)


class ServerConfig(BaseModel):
    """Everything that can be set. A value of None is chosen from the device and the model.

    The command line (`server.cli`) and docs/configuration.md are made from these fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str = setting(MODEL, DEFAULT_BASE, "Base model: embedded:NAME, a folder, or a hub id")
    served_model_name: str | None = setting(MODEL, None, "Name of the base in requests")
    device: Literal["auto", "cpu", "cuda"] = setting(MODEL, "auto", "CUDA when there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        MODEL, "auto", "Compute dtype: bfloat16 where the device has it"
    )
    quantization: Literal["nf4", "fp4", "none"] = setting(
        MODEL, "nf4", "Base weight format; files that hold 4-bit codes keep theirs, unless none"
    )
    double_quant: bool = setting(MODEL, True, "Quantise the absmax values of 4-bit blocks too")
    backend: Literal["auto", "reference", "native"] = setting(
        MODEL, "auto", "Kernels: native where they can be built, else the torch reference"
    )
    head_format: Literal["bfloat16", "int8", "nf4"] = setting(
        MODEL, "bfloat16", "Output head of the native backend: smaller is faster, less exact"
    )
    arithmetic: Literal["bfloat16", "int8"] = setting(
        MODEL,
        "bfloat16",
        "Inputs of 4-bit weights in the native backend: rounded to int8 is faster, less exact",
    )
    tool_format: Literal["auto", "hermes", "mistral", "llama3", "json"] = setting(
        MODEL, "auto", "How the model writes tool calls; auto: by its chat template"
    )
    allow_special_tokens: bool = setting(
        MODEL, False, "Special tokens written in messages count as such; else they stay text"
    )
    max_model_len: int | None = setting(MODEL, None, "Window: prompt and answer, tokens", ge=2)

    store: str = setting(ADAPTERS, "var/adapters", "The adapter store: a folder, or a URL as s3://")
    adapter_roots: tuple[Path, ...] = setting(
        ADAPTERS, (), "Folders that /v1/load_lora_adapter may read from"
    )
    adapter_bank_pages: int = setting(
        ADAPTERS,
        ADAPTER_PAGES,
        "Adapter pages on the device; a page holds 8 rank components",
        ge=1,
    )
    max_lora_rank: int = setting(ADAPTERS, MAX_LORA_RANK, "Largest adapter rank accepted", ge=1)
    allow_mismatch: bool = setting(
        ADAPTERS, False, "Serve adapters made for another base, with a warning header"
    )
    host_cache_gib: float = setting(ADAPTERS, 2.0, "Adapters kept in host memory", gt=0)

    max_num_sequences: int = setting(BATCHING, 64, "Sequences in a batch", ge=1)
    max_batch_tokens: int = setting(
        BATCHING,
        256,
        "Tokens of a step: smaller keeps streams even, larger prefills faster",
        ge=1,
    )
    max_prefill_beside_decodes: int | None = setting(
        BATCHING, None, "Prompt tokens of a step while streams decode; None: by device", ge=1
    )
    crowding: float | None = setting(
        BATCHING,
        None,
        "Tokens of a step for adapters and keys over their share, for each sequence of the others; "
        "inf for no bound, None: by device",
        ge=0,
    )
    max_adapters_per_step: int = setting(BATCHING, 64, "Distinct adapters in a batch", ge=1)
    block_size: int = setting(BATCHING, 16, "Tokens in a KV block", ge=1)
    kv_cache_gib: float = setting(BATCHING, 1.0, "Size of the KV cache", gt=0)
    prefix_cache: bool = setting(BATCHING, True, "Reuse KV blocks of equal prefixes")
    share_prefix_cache: bool = setting(
        BATCHING,
        False,
        "Reuse them between keys too: cached_tokens and time then tell one key what others sent",
    )

    host: str = setting(ACCESS, "127.0.0.1", "Address to listen on")
    port: int = setting(ACCESS, 8000, "Port to listen on", ge=0, le=65535)
    keys_file: Path | None = setting(
        ACCESS, None, "API keys, made by `server keys`; followed while the server runs"
    )
    auth: bool = setting(
        ACCESS, True, "Without a keys file listen on this machine only; --no-auth lifts that"
    )
    metrics_need_key: bool = setting(
        ACCESS, False, "Ask for a key with the right 'metrics' at /metrics"
    )

    max_waiting: int = setting(LIMITS, 1024, "Sequences in the queue before 429", ge=1)
    max_body_mib: float = setting(LIMITS, 8.0, "Largest request body", ge=0.001)
    max_bodies_mib: float = setting(LIMITS, 128.0, "Bodies of all requests together", ge=0.001)
    max_connections: int = setting(LIMITS, 1024, "Open connections; 32 more for health", ge=1)
    max_choices: int = setting(LIMITS, 128, "Prompts times n of one request", ge=1)
    request_timeout_seconds: float = setting(
        LIMITS, 600.0, "Longest time for an answer; a client may ask for less", gt=0
    )
    render_timeout_seconds: float = setting(
        LIMITS, 5.0, "Time for a chat template to render a conversation", gt=0, le=3600
    )
    render_memory_mib: int = setting(
        LIMITS, 512, "Memory for that, in each of two processes", ge=64
    )
    body_seconds: float = setting(LIMITS, 30.0, "Time for a request's body to arrive", gt=0)
    write_seconds: float = setting(
        LIMITS, 60.0, "A client that reads nothing for so long is cut off", gt=0
    )
    step_timeout_seconds: float | None = setting(
        LIMITS,
        None,
        "A step that runs so long hangs: the process ends with 1; 0 for never, None: 100 times "
        "what a full step takes at the start, 120 to 600 s",
        ge=0,
    )
    loop_timeout_seconds: float = setting(
        LIMITS,
        60.0,
        "The event loop is blocked for so long: the process ends with 1; 0 for never",
        ge=0,
    )
    drain_seconds: float = setting(
        LIMITS, 30.0, "Time for running requests to finish after SIGTERM", ge=0
    )
    restart: bool = setting(
        LIMITS,
        False,
        "Start again what ended with an error, by a parent process: not after a signal to stop, "
        "nor after settings that can't be used",
    )

    log_level: Literal["debug", "info", "warning", "error"] = setting(LOGS, "info", "Log level")
    log_format: Literal["text", "json"] = setting(
        LOGS, "text", "Lines for people, or one JSON object a line"
    )
    trace_endpoint: str | None = setting(
        LOGS,
        None,
        "OTLP collector that gets OpenTelemetry spans, such as http://127.0.0.1:4318/v1/traces",
    )
    log_prompts: bool = setting(LOGS, False, "Write prompts into the log")


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice; YAML would take the last one without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [(self.construct_object(key, deep=True), key.start_mark) for key, _ in node.value]
        for position, (key, mark) in enumerate(keys):
            if any(key == earlier for earlier, _ in keys[:position]):
                raise ConfigurationError([f"{key}: given twice (line {mark.line + 1})"])
        return super().construct_mapping(node, deep)


def load_config(
    config_file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> ServerConfig:
    """Merge the sources. Raises `ConfigurationError` with every problem of all of them."""
    values: dict[str, Any] = {}
    problems = unknown_settings(environment)
    if config_file is not None:
        values.update(_read_yaml(config_file))
    for name, field in ServerConfig.model_fields.items():
        text = environment.get(ENVIRONMENT_PREFIX + name.upper())
        if text is not None:
            is_list = field.annotation == tuple[Path, ...]
            values[name] = text.split(":") if is_list else text
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        config = ServerConfig.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            name = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                near = did_you_mean(name.replace("-", "_"), ServerConfig.model_fields)
                problems.append(f"{name} = {item.get('input')!r}: there is no such setting{near}")
                continue
            problems.append(f"{name} = {item.get('input')!r}: {item['msg']}")
        raise ConfigurationError(problems) from error
    if problems:
        raise ConfigurationError(problems)
    if config.auth and config.keys_file is None and not is_loopback(config.host):
        raise ConfigurationError(
            [
                f"host = {config.host!r}: without keys the server listens on this machine only. "
                "Make a key (`server keys new NAME`) and give --keys-file, or say --no-auth to "
                "let everybody in who reaches that address"
            ]
        )
    return config


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each `SWITCHYARD_*` variable that nothing of Switchyard reads."""
    settings = {name.upper() for name in ServerConfig.model_fields}
    return unknown_variables(environment, settings | COMMAND_VARIABLES)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name other than localhost may mean anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.load(path.read_text(), Loader=_Loader)
    except OSError as error:
        raise ConfigurationError([f"{path} can't be read: {error.strerror}"]) from error
    except yaml.YAMLError as error:
        raise ConfigurationError([f"{path} isn't YAML: {error}"]) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigurationError([f"{path} must hold a mapping of settings to values"])
    return loaded
