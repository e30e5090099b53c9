"""`trainer resume`: go on with a run that was cut off, exactly where its last checkpoint is."""

from pathlib import Path

from rich.console import Console

from adapters.store.remote_store import open_store
from adapters.store.store import AdapterStore
from trainer.config.loading import LoadedConfig, load_config
from trainer.errors import ResumeError
from trainer.loop.checkpoint_state import read_progress
from trainer.loop.checkpoints import Checkpoint, Checkpoints
from trainer.loop.processes import join_processes
from trainer.loop.run_folder import RunFolder, RunRecord
from trainer.loop.training_arguments import resolve_device
from trainer.preflight.prepare import Preflight, prepare_run
from trainer.run.running import RunResult, carry_out, task_of


def resume_training(path: Path, *, store: AdapterStore | None, console: Console) -> RunResult:
    """Go on with the run in the folder `path`, to its published version.

    Without `store` it publishes into the one that the run began with. Raises `ResumeError` when
    the folder holds no run, the run has ended, or the data, the base or the number of processes
    are others than it began with: then going on would be another run.
    """
    folder = RunFolder(path)
    record = folder.read_record()
    if record.published is not None:
        raise ResumeError(f"the run in {path} has ended: it published {record.published}")
    loaded = LoadedConfig(load_config(folder.config).config, Path(record.config_folder))
    processes = join_processes(resolve_device(loaded.config.training.device))
    if not processes.is_main:
        console = Console(quiet=True)
    if processes.count != record.num_processes:
        raise ResumeError(
            f"the run began with {record.num_processes} processes and there are {processes.count}; "
            "start as many, or the steps would be others"
        )
    ready = prepare_run(loaded, console, processes.count)
    _same_run(ready, record)
    start = _newest(folder, ready, console)
    if start is None:
        console.print("there is no checkpoint: the run begins again at step 1", highlight=False)
    else:
        console.print(f"going on after step {start.step} of {ready.plan.num_steps}")
    task = task_of(ready, processes)
    into = store or open_store(record.store)
    return carry_out(ready, task, folder, record, start, into, console, processes)


def _newest(folder: RunFolder, ready: Preflight, console: Console) -> Checkpoint | None:
    checkpoints = Checkpoints(folder.checkpoints, ready.config.training.checkpoints.keep)
    found = checkpoints.newest(lambda reason: console.print(reason, style="yellow"))
    if found is not None and found.step > ready.plan.num_steps:
        raise ResumeError(
            f"{found.path} is of step {found.step}, but the plan has {ready.plan.num_steps} steps: "
            "it belongs to another run"
        )
    if found is not None:
        assert read_progress(found.path).num_processes == ready.plan.num_processes
    return found


def _same_run(ready: Preflight, record: RunRecord) -> None:
    changed = [
        f"{what} (then {then}, now {now})"
        for what, then, now in (
            ("the data", record.data_digest, ready.data.digest),
            ("the base", record.base_digest, ready.base.resolved.digest),
        )
        if then != now
    ]
    if changed:
        raise ResumeError(
            f"since the run began {' and '.join(changed)} changed: going on would mix two runs. "
            "Put it back, or start anew with `trainer run`"
        )
