"""What a scenario needs before anybody asks: adapters, a server, golden answers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from adapters.store.store import AdapterStore
from loadtests.fixtures.adapters_factory import base_module_shapes, write_random_adapter
from loadtests.harness.command import MeasurementError
from loadtests.harness.prompts import long_prompt
from loadtests.scenarios.exchange import post, stream
from loadtests.scenarios.supervised_server import SupervisedServer
from loadtests.scenarios.workload import ADAPTER_HEADER, CHAT, Workload, chat_body, golden_prompts

CHURN_NAME = "churn"
_NUM_CHURN_FOLDERS = 2
_LONG_PROMPT_TOKENS = 600
_MAX_FILLING_MODELS = 16


def publish_adapters(
    store_root: Path, folders_root: Path, base: str, num_adapters: int, rank: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Random adapters `load-00` ... in the store; returns their names and the churn folders.

    The churn folders stay outside of the store: the load replaces one name by them in turn.
    """
    shapes = base_module_shapes(base)
    store = AdapterStore(store_root)
    names: list[str] = []
    for index in range(num_adapters):
        name = f"load-{index:02d}"
        folder = write_random_adapter(
            folders_root / name, shapes, rank=rank, seed=index, base_reference=base
        )
        store.import_folder(name, folder, source="loadtests")
        names.append(name)
    churn = [
        write_random_adapter(
            folders_root / f"churn-{index}", shapes, rank=rank, seed=1000 + index,
            base_reference=base,
        )
        for index in range(_NUM_CHURN_FOLDERS)
    ]  # fmt: skip
    return tuple(names), tuple(str(folder) for folder in churn)


def make_workload(
    base_id: str,
    names: Sequence[str],
    churn_folders: Sequence[str],
    *,
    num_prompts: int,
    max_tokens: int,
    records: Path,
    count_tokens: Callable[[str], int],
) -> Workload:
    """Base, every adapter, and a stack of the first two; no goldens yet."""
    stacks = (f"{names[0]}:0.7+{names[1]}:0.3",) if len(names) > 1 else ()
    return Workload(
        models=(base_id, *names, *stacks),
        prompts=golden_prompts(num_prompts),
        max_tokens=max_tokens,
        long_prompts=tuple(
            long_prompt(serial, _LONG_PROMPT_TOKENS, count_tokens) for serial in range(3)
        ),
        churn_name=CHURN_NAME,
        churn_folders=tuple(churn_folders),
        records=str(records),
    )


def with_goldens(workload: Workload, server: SupervisedServer) -> Workload:
    """Ask everything once, one after another, and keep the answers.

    Leaves the first churn folder's bytes under the churn name. Raises `MeasurementError` when the
    idle server doesn't answer.
    """
    goldens: dict[str, dict[str, str]] = {}
    for model in workload.models:
        _ask_all(workload, server, model, goldens)
    for folder in reversed(workload.churn_folders):
        _load(server, workload.churn_name, folder)
        _ask_all(workload, server, workload.churn_name, goldens)
    return replace(workload, goldens=goldens)


def fill_memory(workload: Workload, server: SupervisedServer) -> None:
    """Long prompts to many adapters, each a prefix of its own, until every KV block was in use.

    Memory that was never written isn't resident, so without this an idle server only seems to grow.
    """
    for model in workload.models[:_MAX_FILLING_MODELS]:
        for prompt in workload.long_prompts:
            exchange = stream(server.url, CHAT, chat_body(model, prompt, 1))
            if not exchange.is_whole:
                raise MeasurementError(f"a long prompt to {model} failed: {exchange.failure}")


def _ask_all(
    workload: Workload, server: SupervisedServer, model: str, goldens: dict[str, dict[str, str]]
) -> None:
    for prompt in workload.prompts:
        exchange = stream(server.url, CHAT, chat_body(model, prompt, workload.max_tokens))
        if exchange.status != 200 or not exchange.is_whole:
            raise MeasurementError(
                f"the idle server answered {model} with {exchange.status}: "
                f"{exchange.failure or exchange.text}"
            )
        digest = exchange.headers.get(ADAPTER_HEADER, "")
        goldens.setdefault(digest, {})[prompt] = exchange.text


def _load(server: SupervisedServer, name: str, folder: str) -> None:
    body = f'{{"lora_name": "{name}", "lora_path": "{folder}", "load_inplace": true}}'
    exchange = post(server.url, "/v1/load_lora_adapter", body.encode())
    if exchange.status != 200:
        raise MeasurementError(f"{folder} couldn't be loaded: {exchange.text or exchange.failure}")
