"""How much one step may hold, while the memory for more isn't there."""

_STEPS_UNTIL_GROWTH = 16


class StepLimits:
    """Rows and tokens of a step: the settings', halved after each lack of memory, then grown again.

    `num_shrinks` counts the halvings.
    """

    def __init__(self, max_rows: int, max_tokens: int) -> None:
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self.rows = max_rows
        self.tokens = max_tokens
        self.num_shrinks = 0
        self._num_good_steps = 0

    @property
    def are_full(self) -> bool:
        """Whether the settings' own limits hold."""
        return self.rows == self._max_rows and self.tokens == self._max_tokens

    def shrink(self, num_rows: int, num_tokens: int) -> bool:
        """A step of this size was too large; False when there is no smaller one."""
        if num_tokens <= 1:
            return False
        self.rows = max(1, num_rows // 2)
        self.tokens = max(self.rows, num_tokens // 2)
        self.num_shrinks += 1
        self._num_good_steps = 0
        return True

    def succeed(self) -> None:
        """A step went well; after some of them the limits double."""
        if self.are_full:
            return
        self._num_good_steps += 1
        if self._num_good_steps >= _STEPS_UNTIL_GROWTH:
            self._num_good_steps = 0
            self.rows = min(self._max_rows, self.rows * 2)
            self.tokens = min(self._max_tokens, self.tokens * 2)
