"""``python -m experiments.bench``: measures and prints a Markdown table."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings

import torch

from experiments.bench import bookkeeping, epochs, mixture, split, triggers, views
from experiments.bench.measure import Result

MEASUREMENTS = {  # memory first, before anything else has used any
    'bookkeeping': bookkeeping.measure,
    'epochs': epochs.measure,
    'split': split.measure,
    'mixture': mixture.measure,
    'views': views.measure,
    'triggers': triggers.measure,
}
COLUMNS = ('measurement', 'measured', 'target', '')


def line(cells: tuple[str, ...]) -> str:
    """One line of a Markdown table."""
    return f'| {" | ".join(cells)} |'


def main(args: list[str] | None = None) -> list[Result]:
    """Measures what is asked for and prints each result as soon as it is known.

    Args:
        args: What would follow the command's name in a shell; that itself if ``None``.

    Returns:
        What was measured.
    """
    parser = argparse.ArgumentParser(prog='python -m experiments.bench', description='Ratios taken in one run.')
    parser.add_argument('--only', choices=MEASUREMENTS, help='one measurement instead of all')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch (default: 1, as a loader has)')
    chosen = parser.parse_args(args)
    torch.set_num_threads(chosen.threads)
    quieten()
    print(line(COLUMNS), line(('---',) * len(COLUMNS)), sep='\n', flush=True)
    results = []
    for name in [chosen.only] if chosen.only else MEASUREMENTS:
        for result in MEASUREMENTS[name]():
            print(line(result.cells()), flush=True)
            results.append(result)
    return results


def quieten() -> None:
    """Leaves out what Lightning says about every trainer."""
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    warnings.filterwarnings('ignore', module='lightning')


if __name__ == '__main__':
    sys.exit(any(result.verdict == 'short' for result in main()))
