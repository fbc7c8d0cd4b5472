"""Prints a table of finished runs and draws their figures.

For example: ``python -m experiments.report runs/clip_toy runs/safeclip_toy --figure runs/toy.png``.

Runs of one name and different seeds become one row. Hits and counts of an attack are added up, so the interval is
that of all images together. Other numbers are means, followed by the smallest and the largest value.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datamodules.usage_error import UsageError
from experiments.result_figures import success_against_accuracy, success_over_epochs
from experiments.results import load, read_run, save
from experiments.tables import run_table


def main() -> None:
    """Prints the table of the runs, then draws and saves what the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, help='folders of runs, or JSON files saved from them')
    parser.add_argument('--figure', type=Path, help='PNG file for success and accuracy over the epochs')
    parser.add_argument('--trade-off', type=Path, help='PNG file for final success against accuracy')
    parser.add_argument('--save', type=Path, help='folder to save the results in, one small JSON file for each run')
    options = parser.parse_args()
    try:
        results = [load(path) if path.suffix == '.json' else read_run(path) for path in options.runs]
    except UsageError as error:
        parser.error(str(error))
    print(run_table(results))
    for path, draw in ((options.figure, success_over_epochs), (options.trade_off, success_against_accuracy)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(results).savefig(path, dpi=150)
            print(f'figure: {path}')
    for result in results if options.save else []:
        save(result, options.save / f'{result.name}_{result.seed}.json')


if __name__ == '__main__':
    main()
