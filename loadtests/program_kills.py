"""kill -9 of whole programs in the middle of a change to a store, as `store_kills` does of workers.

Three programs over one store: a real server whose administrating requests load, alias and remove,
the command `adapters` doing the same, and `trainer run`, which publishes what it trained. Each is
killed a moment after its change shows in the store. Whoever opens the store next must find exactly
the state before the change, or after it, with nothing left over, and go on.

Takes about 10 s a kill of server or trainer and 2 s of `adapters` on 2 cores: 12 minutes.
"""

import argparse
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapters.format.digest import adapter_digest
from adapters.store.store import AdapterStore
from loadtests.fixtures.adapters_factory import base_module_shapes
from loadtests.fixtures.random_llama import TINY, build_random_llama
from loadtests.fixtures.tiny_adapter import write_tiny_adapter
from loadtests.harness.command import MeasurementError, Report, make_parser, run_command
from loadtests.harness.program_victims import Program, ServerProgram, operator_command
from loadtests.harness.store_model import StoreModel, state_of
from loadtests.kill_and_resume import write_run
from loadtests.store_kills import check_clean

_NAMES = ("sql", "polite")
_TRAINED = "k"
_MAX_CHANGES = 3
# The first step only warms up: what it leaves has no effect, and no store takes that for whole.
_TRAINING = ("--training.epochs", "1", "--training.max_steps", "3", "--evaluation.every", "end")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser("program_kills", str(__doc__), quick="3 kills of each")
    parser.add_argument("--kills", type=int, default=30, help="of each program (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="(%(default)s)")
    parser.add_argument(
        "--program", action="append", choices=tuple(_PROGRAMS), help="only this; may be repeated"
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.kills = 3
    return arguments


class Bystander:
    """The store, what it must hold, and what to change it by."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.store = work, work / "store"
        self.base = str(work / "base")
        self.draw = random.Random(seed)
        build_random_llama(Path(self.base), TINY)
        shapes = base_module_shapes(self.base)
        self.folders = [
            write_tiny_adapter(work / f"adapter-{fill}", shapes, fill=fill) for fill in (1, 2, 3)
        ]
        self.digests = [adapter_digest(folder) for folder in self.folders]
        self.model = StoreModel()
        AdapterStore(self.store)
        self.num_new = 0
        """Kills after which the store was in the new state."""

    def draw_operation(self) -> dict[str, Any]:
        """A change as `StoreModel` knows it; most are possible."""
        name, there = self.draw.choice(_NAMES), self.model.versions
        kind = self.draw.choice(("load", "load", "alias", "rm"))
        versions = sorted(there.get(name, {}))
        if kind == "load" or not versions:
            return {"op": "load", "name": name, "folder": self.draw.randrange(len(self.folders))}
        if kind == "alias":
            chosen = self.draw.sample(versions, min(len(versions), self.draw.choice((1, 2))))
            weights = {str(version): 1 / len(chosen) for version in chosen}
            return {"op": "alias", "name": name, "weights": weights}
        return {"op": "rm", "name": name, "version": self.draw.choice([*versions, None])}

    def check(self, operation: dict[str, Any], digests: Sequence[str]) -> None:
        """Open the store after a kill in `operation`. Raises `MeasurementError`."""
        store = AdapterStore(self.store)
        found, after = state_of(store), self.model.after(operation, digests)
        if found != after.state and found != self.model.state:
            raise MeasurementError(
                f"{operation} was cut off, and the store is {found}, neither {self.model.state} "
                f"nor {after.state}"
            )
        if found == after.state:
            self.num_new += self.model.state != after.state
            self.model = after
        check_clean(store)


def kill_servers(bystander: Bystander, kills: int) -> None:
    """Each serves some changes whole and is killed in the next."""
    log_file = bystander.work / "server.log"
    for _ in range(kills):
        with ServerProgram(bystander.base, bystander.store, bystander.work, log_file) as server:
            for _ in range(bystander.draw.randrange(_MAX_CHANGES)):
                operation = bystander.draw_operation()
                server.apply(operation, bystander.folders)
                bystander.model = bystander.model.after(operation, bystander.digests)
            operation = bystander.draw_operation()
            answered = threading.Event()

            def ask(
                server: ServerProgram = server,
                operation: dict[str, Any] = operation,
                answered: threading.Event = answered,
            ) -> None:
                server.apply(operation, bystander.folders)
                answered.set()

            caller = threading.Thread(target=ask)
            caller.start()
            server.kill_in_a_change(bystander.store / ".staging", bystander.draw, answered)
            caller.join()
        bystander.check(operation, bystander.digests)


def kill_operators(bystander: Bystander, kills: int) -> None:
    """Every change is a program of its own."""
    for _ in range(kills):
        operation = bystander.draw_operation()
        command = operator_command(operation, bystander.store, bystander.folders)
        with Program(command, bystander.work / "adapters.log") as program:
            program.kill_in_a_change(
                bystander.store / ".staging", bystander.draw, threading.Event()
            )
        bystander.check(operation, bystander.digests)


def kill_trainers(bystander: Bystander, kills: int) -> None:
    """Each trains some steps and is killed while it publishes."""
    config = write_run(bystander.work, bystander.base, every=1000)
    for index in range(kills):
        command = (
            *(sys.executable, "-m", "trainer", "run", str(config)),
            *("--store", str(bystander.store), "--runs", str(bystander.work / f"runs-{index}")),
            *_TRAINING,
        )
        log_file = bystander.work / "trainer.log"
        with Program(command, log_file) as program:
            program.kill_in_a_change(
                bystander.store / ".staging", bystander.draw, threading.Event()
            )
            if program.status not in (0, -9):
                raise MeasurementError(f"trainer ended by itself:\n{log_file.read_text()[-2000:]}")
        before = bystander.model.versions.get(_TRAINED, {})
        versions = state_of(AdapterStore(bystander.store))[0].get(_TRAINED, {})
        # What training gives isn't known beforehand; that it is whole, the check of damage says.
        new = [digest for version, digest in versions.items() if version not in before]
        operation = {"op": "publish", "name": _TRAINED, "folder": 0}
        bystander.check(operation, new or [""])


_PROGRAMS: dict[str, Callable[[Bystander, int], None]] = {
    "server": kill_servers,
    "adapters": kill_operators,
    "trainer": kill_trainers,
}


def measure(arguments: argparse.Namespace) -> Report:
    """Kill each, and print what happened."""
    report: Report = {}
    with tempfile.TemporaryDirectory(prefix="program-kills-") as folder:
        bystander = Bystander(Path(folder), arguments.seed)
        for title in arguments.program or _PROGRAMS:
            before = bystander.num_new
            _PROGRAMS[title](bystander, arguments.kills)
            num_new = bystander.num_new - before
            print(
                f"{title}: {arguments.kills} kills; the store was in the new state after {num_new} "
                f"and in the old one after {arguments.kills - num_new}, whole each time",
                flush=True,
            )
            report[title] = {"kills": arguments.kills, "new": num_new}
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when the store was neither as before nor as after."""
    return run_command("program_kills", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
