"""The one exception for mistakes of the user, which the command reports as a single sentence."""

from __future__ import annotations


class UsageError(ValueError):
    """A setting, a file or a call that cannot work: the message names the argument and the fix.

    Raised on purpose only. Any other exception that reaches the command is a bug and shows its traceback.
    """
