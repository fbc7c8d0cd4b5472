"""Where the folder of a run is to be."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import yaml

from datamodules.usage_error import UsageError
from experiments.checkpoint_choice import RUN, resumed_run


class Place(NamedTuple):
    """Where the folder of a run is to be.

    Attributes:
        parent: Folder of all runs of the name.
        kind: What numbered folders begin with: ``version`` for training, else the subcommand.
        version: Name of the folder; ``None`` for the next number.
        checkpoint: Checkpoint that the run resumes from.
    """

    parent: Path
    kind: str = RUN
    version: str | None = None
    checkpoint: Path | None = None

    @property
    def resumed(self) -> Path | None:
        """The run that goes on in its own folder; ``None`` if there is none."""
        return resumed_run(self.checkpoint, self.parent) if self.checkpoint and self.kind == RUN else None


def place_of(subcommand: str, config: Any) -> Place:
    """What the settings of a subcommand say: the name below the root, or the place that a CSV logger has."""
    given = config.trainer.logger
    paths = {getattr(logger, 'class_path', ''): logger for logger in (given if isinstance(given, list) else [given])}
    csv = next((logger.init_args for path, logger in paths.items() if path.endswith('.CSVLogger')), None)
    kind = RUN if subcommand == 'fit' else subcommand
    checkpoint = Path(config.ckpt_path) if config.get('ckpt_path') else None
    if csv is None:
        return Place(Path(config.trainer.default_root_dir or '.', config.name), kind, None, checkpoint)
    version = f'{RUN}_{csv.version}' if isinstance(csv.version, int) else csv.version
    return Place(Path(csv.save_dir, csv.name or ''), kind, version, checkpoint)


def check_run(place: Place, config: Any) -> None:
    """Refuses to go on in the folder of a run of another method or seed, as which it would be reported from then on.

    So ``ckpt_path=last`` of a control that has left no checkpoint is not the defended run of the same name.

    Raises:
        UsageError: If the class of its model, that of its split or its seed differs from the run's ``config.yaml``.
    """
    run = place.resumed
    if run is None:
        return
    try:
        earlier = yaml.safe_load((run / 'config.yaml').read_text(encoding='utf-8'))
        split = (earlier.get('callbacks') or {}).get('repartition')
        was, seed = _method(earlier['model'], split), earlier['seed_everything']
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):  # nothing tells
        return
    now = _method(config.model, config.callbacks.get('repartition'))
    if was != now:
        raise UsageError(
            f'ckpt_path: {run} is a run of {was}, and this one is of {now}: give a checkpoint of the same method, or '
            f'another --name, under which a run branches off.'
        )
    if isinstance(seed, int) and seed != config.seed_everything:  # not one that is written as an interpolation
        raise UsageError(
            f'ckpt_path: {run} is a run with seed_everything={seed}, and this one has {config.seed_everything}: resume '
            f'it with its seed, or under another --name, under which a run branches off.'
        )


def _method(model: Any, split: Any) -> str:
    """Classes of a model and of its split, such as ``SafeCLIP with no split``."""
    model_class, split_class = (
        part['class_path'].rpartition('.')[2] if part else 'no split' for part in (model, split)
    )
    return f'{model_class} with {split_class}'


def check_name(name: str) -> str:
    """The name of a run if it can be that of a folder.

    Raises:
        UsageError: If it cannot, or would lie outside ``trainer.default_root_dir``.
    """
    parts, is_plain = PurePath(name).parts, name.isprintable() and name == name.strip() != 'null'
    if not is_plain or not parts or '..' in parts or PurePath(name).is_absolute():
        raise UsageError(f'name={name!r} cannot be a folder below trainer.default_root_dir: give a plain name.')
    return name


def claim(place: Place) -> Path:
    """Makes the folder; of several processes only one gets it, and the others the next number.

    Raises:
        UsageError: If it cannot be made, or if it was named and holds something.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        return _next_folder(place) if place.version is None else _named_folder(place.parent / place.version)
    except OSError as error:
        raise UsageError(
            f'trainer.default_root_dir or name: no folder can be made in {place.parent} ({error.strerror}).'
        ) from error


def _named_folder(folder: Path) -> Path:
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f'{folder} is in use: resume it with --ckpt_path, or give its CSVLogger another version.')
    folder.mkdir(exist_ok=True)
    return folder


def _next_folder(place: Place) -> Path:
    while True:
        matches = (re.fullmatch(rf'{place.kind}_(\d+)', path.name) for path in place.parent.iterdir())
        number = max((int(match[1]) for match in matches if match), default=-1) + 1
        folder = place.parent / f'{place.kind}_{number}'
        try:
            folder.mkdir()
        except FileExistsError:  # another process was faster
            continue
        return folder
