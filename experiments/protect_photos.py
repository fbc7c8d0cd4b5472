"""``make protect``: protects a folder of photos with one command, which goes on where it was stopped.

The folder holds ``pairs.csv`` with a path and a caption in each row, in columns ``image,caption`` or
``filepath,title``; or one folder of photos for each person, who is then named in the captions. The run that makes the
noise is kept in ``<out>_run``; delete it to start anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.files.reading import list_images
from datamodules.files.writers import require_empty
from datamodules.usage_error import UsageError
from experiments import cli
from experiments.errors import fail, short_errors
from experiments.grid import last_checkpoint
from experiments.interrupts import quiet_signals
from experiments.run_results import finished_version

PAIRS = 'pairs.csv'


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
    known, options = parser.parse_known_args(arguments)
    with short_errors(sys.argv), quiet_signals(SIGTERMException):
        protect_photos(known.photos, known.out, options)


def protect_photos(photos: Path, out: Path, options: Sequence[str]) -> None:
    """Protects a folder of photos.

    Raises:
        UsageError: If it holds neither pairs nor people, or ``out`` is in use or inside of it.
        SystemExit: If training was stopped or refused.
    """
    from lightning.pytorch.utilities import rank_zero_only

    require_empty(out, 'out')
    if out.resolve().is_relative_to(photos.resolve()):
        raise UsageError(f'out={str(out)!r} is inside the photos, which stay as they are: name a folder outside.')
    name, config, *settings = settings_of(photos)
    settings += options
    runs = out.resolve().with_name(f'{out.resolve().name}_run')
    if finished_version(runs / name):
        print(f'The noise is that of {runs}, which has ended: delete it to make other noise.', flush=True)
    else:
        checkpoint = last_checkpoint(runs / name)
        resume = [f'--ckpt_path={checkpoint}'] if checkpoint else []
        cli.main(['fit', config, *settings, f'--trainer.default_root_dir={runs}', f'--name={name}', *resume])
    if getattr(rank_zero_only, 'rank', 0):  # all processes of a run train, one publishes
        return
    run = finished_version(runs / name)
    if run is None:
        fail(f'the run in {runs / name} was stopped: the same command goes on with it.')
    # With the photos and options of this command, so that noise of others is refused.
    store = [f'--store={run / "noise"}', f'--out={out}']
    cli.main(['protect', f'--config={run / "config.yaml"}', *settings, *store])


def settings_of(photos: Path) -> list[str]:
    """The name of the run for a folder of photos, and its options.

    Raises:
        UsageError: If it is no folder, or holds neither pairs nor people, or photos beside the folders of people.
    """
    if (photos / PAIRS).is_file():
        return ['mem_photos', '--config=mem_photos.yaml', f'--data.train={photos / PAIRS}']
    if not photos.is_dir():
        raise UsageError(f'{photos} is no folder: name the one that holds your photos.')
    if any(path.is_dir() for path in photos.iterdir()):
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
