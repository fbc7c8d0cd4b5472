"""The one exception for mistakes of the user, which the command reports as a single sentence."""

from __future__ import annotations

import math

SEEDS = '[0, 4294967295]'  # what numpy, torch and Lightning all take


class UsageError(ValueError):
    """A setting, a file or a call that cannot work: the message names the argument and the fix.

    Raised on purpose only. Any other exception that reaches the command is a bug and shows its traceback.
    """


def check_number(argument: str, value: float | None, interval: str) -> None:
    """Refuses a number outside an interval, and NaN; ``None`` passes, for arguments that may be left out.

    Args:
        argument: The argument as the user wrote it.
        value: Its value.
        interval: The interval as in mathematics: ``[0, 1)`` holds 0 but not 1, ``(0, inf)`` all positive numbers.

    Raises:
        UsageError: If the value is not in it.
    """
    low, high = (float(end) for end in interval[1:-1].split(','))
    may_be_end = {low: interval[0] == '[', high: interval[-1] == ']'}
    if value is None or low < value < high or may_be_end.get(value, False):
        return
    least = f'{"at least" if interval[0] == "[" else "above"} {low:g}{" and finite" * (value == high)}'
    raise UsageError(f'{argument} must {f"be {least}" if high == math.inf else f"lie in {interval}"}, got {value}.')
