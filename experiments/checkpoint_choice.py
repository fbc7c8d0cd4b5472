"""Which checkpoint a command means, and which run goes on from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from datamodules.usage_error import UsageError
from experiments.checkpoint_io import LAST, newest_first, peek

FOLDER = 'checkpoints'  # of a run
RUN = 'version'  # training runs are version_0, version_1, ...


def choose_checkpoint(given: str, parent: Path, dirpath: str | None = None) -> Path:
    """The file that ``ckpt_path`` stands for.

    Args:
        given: A file; ``last``, the newest checkpoint of the newest run that has one; or ``best``, the one that this
            run found best by the metric that it monitored.
        parent: Folder of all runs of the name.
        dirpath: Folder of the checkpoints if it is not that of the run.

    Raises:
        UsageError: If there is no such file.
    """
    if given in ('last', 'best'):
        newest = newest_checkpoint(parent, dirpath)
        if newest is None:
            raise UsageError(
                f'ckpt_path={given}: there is no checkpoint in {dirpath or parent}. To start anew, omit it.'
            )
        return newest if given == 'last' else _best_of(newest)
    if not Path(given).is_file():
        what = 'is a folder' if given and Path(given).is_dir() else 'does not exist'
        raise UsageError(f'ckpt_path={given!r} {what}: give a file, last, auto or best.')
    return Path(given)


def newest_checkpoint(parent: Path, dirpath: str | None = None) -> Path | None:
    """The newest checkpoint of the newest run of a name that has one; arguments as for :func:`choose_checkpoint`."""
    folders = [Path(dirpath)] if dirpath else [run / FOLDER for run in runs_newest_first(parent)]
    return next((files[0] for files in map(newest_first, folders) if files), None)


def runs_newest_first(parent: Path) -> Iterator[Path]:
    """The training runs of a name, in descending order of their numbers."""
    numbers = {path: re.fullmatch(rf'{RUN}_(\d+)', path.name) for path in parent.glob(f'{RUN}_*')}
    runs = [(int(number[1]), path) for path, number in numbers.items() if number]
    yield from (path for _, path in sorted(runs, reverse=True))


def _best_of(checkpoint: Path) -> Path:
    states = [state for state in peek(checkpoint)['callbacks'].values() if 'best_model_path' in state]
    monitored = next((state for state in states if state['monitor']), None)
    if monitored is None:
        raise UsageError(
            'ckpt_path=best: no metric decides which is best: use last, or train with callbacks.checkpoint.monitor.'
        )
    best = checkpoint.with_name(Path(monitored['best_model_path']).name)
    if not best.is_file():
        raise UsageError(f'ckpt_path=best: {best} is gone. Use last.')
    return best


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that wrote a checkpoint; ``None`` if the file lies elsewhere."""
    folder = checkpoint.absolute().parent
    return folder.parent if folder.name == FOLDER else None


def resumed_run(checkpoint: Path, parent: Path) -> Path | None:
    """The run that goes on from a checkpoint in its own folder.

    Args:
        checkpoint: The checkpoint to resume from.
        parent: Folder of all runs of the name.

    Returns:
        Its folder; ``None`` if the checkpoint is of another name, or older than the ``last.ckpt`` beside it: a new run
        then branches off, and the folder is left as it is.
    """
    run = run_of(checkpoint)
    if run is None or run.parent.resolve() != parent.resolve():
        return None
    return parent / run.name if checkpoint.name == LAST or not _is_older_than_last(checkpoint) else None


def _is_older_than_last(checkpoint: Path) -> bool:
    try:
        return bool(peek(checkpoint)['epoch'] < peek(checkpoint.with_name(LAST))['epoch'])
    except UsageError:  # one of them is damaged; if it is this one, loading it tells
        return False
