"""The version of a checkpoint, so that a later release can tell what it reads."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from datamodules.usage_error import UsageError

CHECKPOINT_VERSION = 2  # version 1 is a checkpoint that names none


def add_version(checkpoint: dict[str, Any]) -> None:
    """Writes the version of the format, and that of the release, into a checkpoint."""
    checkpoint['checkpoint_version'] = CHECKPOINT_VERSION
    checkpoint['clipward_version'] = release()


def release() -> str:
    """Version of the installed package; ``unknown`` where it runs from a folder that was not installed."""
    try:
        return version('clipward')
    except PackageNotFoundError:
        return 'unknown'


def check_version(checkpoint: dict[str, Any], argument: str) -> None:
    """Refuses a checkpoint of a later release; older ones are read.

    Args:
        checkpoint: The checkpoint.
        argument: The argument that named it, for the message.

    Raises:
        UsageError: If its format is newer than this release.
    """
    version = checkpoint.get('checkpoint_version', 1)
    if not isinstance(version, int) or version > CHECKPOINT_VERSION:
        writer = checkpoint.get('clipward_version', 'unknown')
        raise UsageError(
            f'{argument} is a checkpoint of version {version}, by release {writer}; '
            f'this release reads up to version {CHECKPOINT_VERSION}: use that release or a later one.'
        )
