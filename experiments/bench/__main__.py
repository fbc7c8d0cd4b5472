"""``python -m experiments.bench``: runs the measurements and prints a Markdown table."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from datamodules.usage_error import check_number
from experiments.bench import (
    bookkeeping,
    defenses,
    epochs,
    mixture,
    neighbors,
    noise,
    phases,
    probe,
    prompts,
    retrieval,
    run,
    scale,
    split,
    start,
    step,
    triggers,
    views,
    words,
)
from experiments.bench.measure import Result
from experiments.errors import short_errors

MEASUREMENTS = {  # these three first: they measure memory, to which the others would add
    'noise': noise.measure,
    'bookkeeping': bookkeeping.measure,
    'neighbors': neighbors.measure,
    'epochs': epochs.measure,
    'split': split.measure,
    'mixture': mixture.measure,
    'views': views.measure,
    'triggers': triggers.measure,
    'words': words.measure,
    'probe': probe.measure,
    'start': start.measure,
    'step': step.measure,
    'phases': phases.measure,
    'run': run.measure,
    'defenses': defenses.measure,
    'scale': scale.measure,
    'retrieval': retrieval.measure,
    'prompts': prompts.measure,
}
COLUMNS = ('measurement', 'measured', 'target', '')


def format_line(cells: tuple[str, ...]) -> str:
    """Formats one line of a Markdown table."""
    return f'| {" | ".join(cells)} |'


def main(args: list[str] | None = None) -> list[Result]:
    """Runs one or all measurements and prints each result as soon as it is known.

    Args:
        args: Arguments of the command; those of the process if ``None``.

    Returns:
        All results, in the order of the table.

    Raises:
        UsageError: If an option cannot work, before anything is measured.
    """
    parser = argparse.ArgumentParser(
        prog='python -m experiments.bench',
        description='Measure what a defense costs, as ratios of times within one run.',
    )
    parser.add_argument('--only', choices=MEASUREMENTS, help='run one measurement instead of all')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch (default: 1, as in a loader worker)')
    parser.add_argument('--against', type=Path, metavar='PATH', help='second checkout to compare start and run with')
    parser.add_argument(
        '--peer', type=Path, metavar='PYTHON', help='Python with open_clip_torch[training], to compare steps'
    )
    parser.add_argument(
        '--clip-benchmark', type=Path, metavar='PYTHON', help='Python with clip-benchmark, to compare retrieval'
    )
    parser.add_argument('--pairs', type=int, default=run.PAIRS, help='pairs of run and defenses (default: %(default)s)')
    parser.add_argument('--pictures', type=Path, metavar='PATH', help='folder of CIFAR-10 for both (default: drawn)')
    parser.add_argument('--features', type=int, default=probe.FEATURES, help='features of probe (default: %(default)s)')
    options = parser.parse_args(args)
    check(options)
    measurements: dict[str, Callable[[], Iterator[Result]]] = {
        **MEASUREMENTS,
        'start': partial(start.measure, options.against),
        'step': partial(step.measure, options.peer),
        'retrieval': partial(retrieval.measure, options.clip_benchmark),
        'run': partial(run.measure, options.against, options.pairs, options.pictures),
        'defenses': partial(defenses.measure, options.pairs, options.pictures),
        'probe': partial(probe.measure, options.features),
    }
    torch.set_num_threads(options.threads)
    silence_lightning()
    print(format_line(COLUMNS), format_line(('---',) * len(COLUMNS)), sep='\n', flush=True)
    results = []
    for name in [options.only] if options.only else MEASUREMENTS:
        for result in measurements[name]():
            print(format_line(result.cells()), flush=True)
            results.append(result)
    return results


def check(options: argparse.Namespace) -> None:
    """Refuses options that a measurement could not use, all of them before the first measurement."""
    check_number('--threads', options.threads, '[1, inf)')
    if options.against is not None:
        start.check_checkout(options.against)
    if options.peer is not None:
        step.check_peer(options.peer)
    if options.clip_benchmark is not None:
        retrieval.check_peer(options.clip_benchmark)
    run.check(options.pairs, options.pictures)
    probe.check(options.features)


def silence_lightning() -> None:
    """Hides the messages that Lightning logs for every trainer."""
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    warnings.filterwarnings('ignore', module='lightning')


if __name__ == '__main__':
    with short_errors(sys.argv):
        sys.exit(any(result.verdict == 'short' for result in main()))
