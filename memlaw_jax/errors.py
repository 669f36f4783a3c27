"""The one exception for mistakes that a user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in the user's input: one sentence with the value and what to do about it.

    The command line prints it without a traceback and exits with code 2.
    """
