"""`python -m` this is the trainer, and breaks while it writes the checkpoint of step 6."""

from tests.integration.test_resume_methods import BROKEN_AT, InterruptedRunError
from trainer.cli import app
from trainer.loop.checkpoints import CheckpointWriter


def _finish(writer: CheckpointWriter, step: int) -> None:
    if step == BROKEN_AT:
        raise InterruptedRunError
    _real(writer, step)


if __name__ == "__main__":
    _real = CheckpointWriter.finish
    CheckpointWriter.finish = _finish  # type: ignore[method-assign]
    app()
