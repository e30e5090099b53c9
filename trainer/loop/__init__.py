"""The training loop: its plan, steps, checkpoints and history."""
