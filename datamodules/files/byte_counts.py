"""Numbers of bytes for people."""


def format_bytes(count: float) -> str:
    """A number of bytes with a unit, as in ``1.5 GB``."""
    for unit in ('bytes', 'kB', 'MB', 'GB'):
        if count < 1000:
            return f'{count:.3g} {unit}'
        count /= 1000
    return f'{count:,.1f} TB'
