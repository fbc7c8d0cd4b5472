"""Prints a table of runs, draws their figures and writes reports.

For example: ``python -m experiments.report runs/clip_toy runs/safeclip_toy --report runs/toy.html``.

Each ``version_*`` folder is a run of its own; where a folder holds several, each has a row. Runs of one name from
different folders become one row if they differ by their seeds alone. Hits and counts of an attack are then added up, so
the interval is that of all images together; the standard deviation of the seeds' rates stands behind it. Other numbers
are means, followed by the smallest and the largest value. A star marks a run that is not a whole one, and a line below
the table says why. Two seeds or more are also compared pair by pair.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from callbacks.figure_files import save_figure
from datamodules.usage_error import UsageError
from experiments.clip_benchmark import write_records
from experiments.cost_tables import epoch_table, overhead_table
from experiments.errors import short_errors
from experiments.meter_figure import leak_against_estimate
from experiments.paired import difference_table
from experiments.rank_figure import ranks_after_training
from experiments.report_files import write_report
from experiments.report_sections import find_reference, sections
from experiments.result_figures import success_against_accuracy, success_over_epochs
from experiments.result_files import load, save
from experiments.results import Result, group_repetitions
from experiments.retrieval_figure import retrieval_over_epochs
from experiments.run_results import is_run, read_runs
from experiments.tables import run_table


def main() -> None:
    """Prints the table of the runs, then draws and saves what the options name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, help='folders of runs or of results of a grid, or JSON files')
    parser.add_argument('--against', help='run that others are compared with, by its name in the table; the first')
    parser.add_argument('--cost', action='store_true', help='print what training costs over that run')
    parser.add_argument('--report', type=Path, help='file for all tables and figures: .html, .md or .tex')
    parser.add_argument('--figure', type=Path, help='PNG file for success and accuracy over the epochs')
    parser.add_argument('--trade-off', type=Path, help='PNG file for final success against accuracy')
    parser.add_argument('--meter', type=Path, help='PNG file for the leak of each attack against its estimate')
    parser.add_argument('--retrieval', type=Path, help='PNG file for loss and median rank of retrieval over the epochs')
    parser.add_argument('--ranks', type=Path, help='PNG file for the median rank after training, a row a method')
    parser.add_argument('--save', type=Path, help='folder to save the results in, one small JSON file for each run')
    parser.add_argument('--clip-benchmark', type=Path, help="folder to save them in as CLIP_benchmark's JSON files")
    options = parser.parse_args()
    with short_errors(sys.argv):
        results = read_all(options.runs)
        reference = find_reference(results, options.against)
        print(run_table(results))
        if differences := difference_table({'': group_repetitions(results)}, reference):
            print(f'\n{differences}')
        if options.cost:
            print(f'\n{epoch_table(results, reference)}\n\n{overhead_table(results, reference)}')
        if options.report:
            write_report(options.report, title_of(results), sections(results, reference))
            print(f'report: {options.report}')
        if options.save:
            save_all(results, options.save)
        if options.clip_benchmark:
            write_records(results, options.clip_benchmark)
        figures = {
            'figure': success_over_epochs,
            'trade_off': success_against_accuracy,
            'meter': leak_against_estimate,
            'retrieval': retrieval_over_epochs,
            'ranks': ranks_after_training,
        }
        for option, draw in figures.items():
            if path := getattr(options, option):
                save_figure(draw(results), path, dpi=150)
                print(f'figure: {path}')


def read_all(paths: Sequence[Path]) -> list[Result]:
    """Results of run folders, folders of results and result files, each read once.

    Raises:
        UsageError: If one of them cannot be read, or a folder holds nothing that was measured.
    """
    results: list[Result] = []
    for path in {path.resolve(): path for path in paths}.values():
        saved = sorted(path.glob('*.json')) if path.is_dir() and not is_run(path) else []
        results += [*map(load, saved)] if saved else read_runs(path) if path.is_dir() else [load(path)]
    return results


def title_of(results: Sequence[Result]) -> str:
    """What a report calls itself."""
    return f'Report on {len(results)} run{"s" * (len(results) != 1)}'


def save_all(results: Sequence[Result], folder: Path) -> None:
    """Saves each result under its name and its seed.

    Raises:
        UsageError: If two results have one name and one seed, so that a file would replace another.
    """
    files = {folder / f'{result.name.replace("/", "_")}_{result.seed}.json': result for result in results}
    if len(files) < len(results):
        raise UsageError('--save: two runs have one name and one seed: save them in different folders.')
    for file, result in files.items():
        save(result, file)


if __name__ == '__main__':
    main()
