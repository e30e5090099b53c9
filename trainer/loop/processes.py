"""The processes of one run: one, or as many as `accelerate launch` started."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from trainer.errors import ConfigError

Shared = TypeVar("Shared")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among its peers. Rank 0 writes files, logs and publishes; all of them train.

    Every method is called by all processes in the same order, or by none.
    """

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.count

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            _distributed().barrier()

    def share(self, value: Shared) -> Shared:
        """What rank 0 gave, on every process."""
        if self.count == 1:
            return value
        box = [value]
        _distributed().broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Shared) -> list[Shared]:
        """What each process gave, by rank, on every process."""
        if self.count == 1:
            return [value]
        boxes: list[Any] = [None] * self.count
        _distributed().all_gather_object(boxes, value)
        return boxes

    def leave(self) -> None:
        """The end of the run: all let go of one another before any of them exits.

        A process that exits with its connections open makes gloo's threads abort the others.
        """
        if self.count > 1:
            self.wait()
            _distributed().destroy_process_group()


ALONE = Processes()
"""The run of one process."""


def join_processes(device: str) -> Processes:
    """This process's place in the run, as the launcher's environment tells it.

    With a launcher it also connects to the others: over gloo on a CPU, nccl on CUDA. Raises
    `ConfigError` for FSDP (docs/adr/0035).
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ConfigError(
            [
                "accelerate was told to use FSDP, which the trainer doesn't save rightly; use DDP "
                "(examples/accelerate/ddp.yaml): each process holds the whole 4-bit base"
            ]
        )
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    # The others wait while the main one evaluates and publishes, which may take long.
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=6))
    return Processes(state.process_index, state.num_processes)


def _distributed() -> Any:
    import torch.distributed

    return torch.distributed
