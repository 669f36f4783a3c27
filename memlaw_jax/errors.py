"""The one exception for mistakes that a user can mend, and the one for a training that was told to stop."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the user's input: one sentence with the value and what to do about it.

    The command line prints it without a traceback and exits with code 2.
    """


class Preempted(Exception):
    """Training was stopped by SIGTERM; the same command goes on from there.

    Args:
      lanes: adapters in training that are saved.
    """

    def __init__(self, lanes: int):
        super().__init__(f"stopped by SIGTERM; {lanes} adapters in training are saved")
        self.lanes = lanes
