"""Imports a command's modules in less time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError

UNUSED_EXTRAS = ('torchvision', 'scipy', 'matplotlib')  # half of the time that it takes to import Lightning


def only_describes(arguments: Sequence[str]) -> bool:
    """Whether a command prints help or a configuration and runs nothing."""
    names = [argument.partition('=')[0] for argument in arguments if argument.startswith('-')]
    return any(name in ('-h', '--help', '--print_config') or name.endswith('.help') for name in names)


@contextmanager
def quick_imports(runs_nothing: bool) -> Iterator[None]:
    """Imports without garbage collection: half a million objects are made, and all of them stay.

    Args:
        runs_nothing: The process will only print, so Lightning may be imported without :data:`UNUSED_EXTRAS`.
    """
    gc.disable()
    try:
        if runs_nothing:
            _import_lightning_without(UNUSED_EXTRAS)
        yield
    finally:
        gc.enable()
        gc.freeze()


def _import_lightning_without(packages: Sequence[str]) -> None:
    finder = _NotInstalled(packages)
    sys.meta_path.insert(0, finder)
    try:
        import lightning.pytorch.cli  # noqa: F401
    finally:
        sys.meta_path.remove(finder)


class _NotInstalled:
    """A finder on ``sys.meta_path`` that makes packages look as if they were not installed.

    Lightning imports torchmetrics, which imports the packages of all its metrics if it finds them. Whether it does
    shows in which metrics it offers, and that is decided once, so this is for processes that compute none.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition('.')[0] in self.packages:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

    def find_distributions(self, context: object = None) -> Iterator[object]:
        if getattr(context, 'name', None) in self.packages:
            raise PackageNotFoundError(getattr(context, 'name', None))
        return iter(())
