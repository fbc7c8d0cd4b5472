"""Versions of the command and of what its results depend on, found without importing any of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ('clipward', 'torch', 'lightning', 'open_clip_torch')


def describe_versions() -> str:
    """One line for each package, and one for Python."""
    return '\n'.join(
        [*(f'{package} {_version(package)}' for package in PACKAGES), f'python {platform.python_version()}']
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return 'not installed'
