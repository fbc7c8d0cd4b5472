"""``make protect``: protects a folder of photos with one command, which goes on where it was stopped.

The folder holds ``pairs.csv`` with a path and a caption in each row, in columns ``image,caption`` or
``filepath,title``; or one folder of photos for each person, who is then named in the captions. The run that makes the
noise is kept in ``<out>_run``; delete it to start anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datamodules.files.atomic import make_folder
from datamodules.files.reading import list_images
from datamodules.files.writers import require_empty
from datamodules.usage_error import UsageError, check_number
from experiments import cli
from experiments.errors import fail, short_errors
from experiments.folder_lock import FolderLock
from experiments.grid import last_checkpoint
from experiments.interrupts import quiet_signals
from experiments.run_results import finished_version

PAIRS, NAMES = 'pairs.csv', 'classes.tsv'
LISTS = {'.csv', '.tsv', '.txt', '.json', '.jsonl', '.parquet'}  # suffixes of files that may hold captions


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the protector unless it is trained, then writes the protected photos.

    Args:
        arguments: What would follow the command's name in a shell; ``sys.argv[1:]`` if ``None``.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='All other arguments are options of clipward fit.',
        allow_abbrev=False,
    )
    parser.add_argument('--photos', type=Path, required=True, help='folder of photos, which stays as it is')
    parser.add_argument('--out', type=Path, required=True, help='folder to write, which must be empty or not exist')
    parser.add_argument('--share', type=float, default=1.0, help='share of the photos to protect, in (0, 1]')
    parser.add_argument('--heldout', choices=['false', 'true'], default='false', help='copy held-out photos too')
    known, options = parser.parse_known_args(arguments)
    publishing = [f'--share={known.share}', f'--heldout={known.heldout}']
    with short_errors(sys.argv), quiet_signals(SIGTERMException):
        check_number('share', known.share, '(0, 1]')
        protect_photos(known.photos, known.out.resolve(), options, publishing)


def protect_photos(photos: Path, out: Path, options: Sequence[str], publishing: Sequence[str]) -> None:
    """Protects a folder of photos.

    Args:
        photos: The folder.
        out: Folder to write, resolved.
        options: Options of ``clipward fit``.
        publishing: Options of ``clipward protect``.

    Raises:
        UsageError: If it holds neither pairs nor people, ``out`` is inside of it or in use, also by another process, or
            an option names another place for the noise.
        SystemExit: If training was stopped or refused.
    """
    require_empty(out, 'out')
    if out.is_relative_to(photos.resolve()):
        raise UsageError(f'out={str(out)!r} is inside the photos, which stay as they are: name a folder outside.')
    if any(option.startswith('--model.store') for option in options):
        raise UsageError(f'model.store has its place in {out.name}_run: leave it out.')
    name, config, *settings = settings_of(photos)
    settings += options
    runs = out.with_name(f'{out.name}_run')
    with _locked(runs):
        _make_noise(runs, name, [config, *settings])
        if not _rank():  # all processes of a run train, one publishes
            run = finished_version(runs / name)
            if run is None:
                fail(f'the run in {runs / name} was stopped: the same command goes on with it.')
            # With the photos and options of this command, so that noise of others is refused.
            store = [f'--store={run / "noise"}', f'--out={out}']
            cli.main(['protect', f'--config={run / "config.yaml"}', *settings, *store, *publishing])


@contextmanager
def _locked(runs: Path) -> Iterator[None]:
    """Keeps other commands from the folder of runs, but not the further processes of this one."""
    make_folder(runs, 'write to another folder')
    lock = None if _rank() else FolderLock(runs)
    try:
        yield
    finally:
        if lock:
            lock.release()


def _make_noise(runs: Path, name: str, arguments: Sequence[str]) -> None:
    """Trains, or goes on: also with a run that has ended, which may have had fewer rounds than it is to have now."""
    checkpoint = last_checkpoint(runs / name)
    if checkpoint or not finished_version(runs / name):
        resume = [f'--ckpt_path={checkpoint}'] if checkpoint else []
        cli.main(['fit', *arguments, f'--trainer.default_root_dir={runs}', f'--name={name}', *resume])
    else:
        print(f'The noise is that of {runs}, which has ended: delete it to make other noise.', flush=True)


def _rank() -> int:
    from lightning.pytorch.utilities import rank_zero_only

    return getattr(rank_zero_only, 'rank', 0)


def settings_of(photos: Path) -> list[str]:
    """The name of the run for a folder of photos, and its options.

    Raises:
        UsageError: If it is no folder, was written by this command, holds neither pairs nor people, or photos or lists
            beside the folders of people.
    """
    if (photos / 'protection.json').is_file():
        raise UsageError(f'{photos} is protected already: name the folder of the photos as they were.')
    if (photos / PAIRS).is_file():
        return ['mem_photos', '--config=mem_photos.yaml', f'--data.train={photos / PAIRS}']
    if not photos.is_dir():
        raise UsageError(f'{photos} is no folder: name the one that holds your photos.')
    if any(path.is_dir() for path in photos.iterdir()):
        if lists := [path.name for path in photos.iterdir() if path.suffix in LISTS and path.name != NAMES]:
            raise UsageError(
                f'{photos} has {lists[0]!r} beside its folders: rename it to {PAIRS} if it lists photos with captions '
                f'(columns image,caption), or take it out if each folder is of a person.'
            )
        if loose := list_images(photos):
            raise UsageError(
                f'{photos} has {len(loose):,} photos beside its folders, such as {loose[0]!r}, which would not be '
                f'protected: put each into the folder of a person, or list all photos in {PAIRS}.'
            )
        return ['mem_faces', '--config=mem_faces.yaml', f'--data.root={photos}']
    raise UsageError(
        f'{photos} has neither {PAIRS}, with a path and a caption in each row, nor a folder of photos for each person.'
    )


if __name__ == '__main__':
    main()
