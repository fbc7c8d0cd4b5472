"""Numbers of bytes for people."""

from __future__ import annotations

import re

from datamodules.usage_error import UsageError

_UNITS = {'': 1, 'B': 1, 'KB': 10**3, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12}
_NUMBER = re.compile(r'\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?b)?\s*', re.IGNORECASE)


def format_bytes(count: float) -> str:
    """A number of bytes with a unit, as in ``1.5 GB``."""
    for unit in ('bytes', 'kB', 'MB', 'GB'):
        if count < 1000:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:,.1f} TB'


def parse_bytes(value: int | str | None, argument: str) -> int | None:
    """Reads a number of bytes, such as ``200GB``; ``None`` passes, for arguments that may be left out.

    Args:
        value: A number, with a unit of powers of 1000 if it is text.
        argument: The argument as the user wrote it, for the message.

    Raises:
        UsageError: If it is not a positive number of bytes.

    Example:
        >>> parse_bytes('1.5 GB', 'data.cache_limit')
        1500000000
    """
    if value is None:
        return None
    match = _NUMBER.fullmatch(str(value))
    try:
        count = round(float(match[1]) * _UNITS[(match[2] or '').upper()]) if match else 0
    except (ValueError, OverflowError):  # two dots, or an infinite number
        count = 0
    if not count:
        raise UsageError(f'{argument}={value!r} is no number of bytes: write it as in 200GB.')
    return count
