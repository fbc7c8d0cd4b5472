"""Names that systems and tools leave among the data, such as ``__MACOSX``; every reader of folders skips them."""

from __future__ import annotations

_LEFT_BEHIND = frozenset(
    {'__macosx', '__pycache__', '@eadir', '#recycle', '$recycle.bin', 'desktop.ini', 'lost+found',
     'system volume information', 'thumbs.db'}
)  # fmt: skip


def is_left_behind(name: str) -> bool:
    """Tells whether the name of a file or folder is hidden, or well known for being no data.

    Example:
        >>> [is_left_behind(name) for name in ('0.jpg', '..', '._0.jpg', '__MACOSX')]
        [False, False, True, True]
    """
    return name.lower() in _LEFT_BEHIND or (name.startswith('.') and name not in ('.', '..'))
