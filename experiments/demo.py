"""``make demo``: two attacks succeed against plain CLIP and the control but not against SafeCLIP.

It takes minutes on two CPU cores. The control is SafeCLIP without its split: it has the same warm-up, views and steps,
and every pair is safe.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from callbacks.figure_files import save_figure
from datamodules.files.atomic import write_text
from experiments.child_processes import Children, ended_by_signals
from experiments.errors import short_errors
from experiments.result_figures import success_over_epochs
from experiments.run_results import read_runs, versions
from experiments.tables import run_table

HERE = Path(__file__).parent
RUNS = {  # the longest first
    'safeclip_toy': [f'--config={HERE / "safeclip_toy.yaml"}'],
    'control_toy': [f'--config={HERE / "safeclip_toy.yaml"}', f'--config={HERE / "ablations/no_repartition.yaml"}'],
    'clip_toy': [f'--config={HERE / "clip_toy.yaml"}'],
}


def train(name: str, folder: Path, children: Children) -> float:
    """Runs ``clipward fit`` for one of the runs, with its output in ``<folder>/<name>.log``.

    Args:
        name: A key of ``RUNS``.
        folder: Folder of the runs and their logs.
        children: Runs the command.

    Returns:
        Seconds that it took.

    Raises:
        SystemExit: If it fails, with the end of its output.
    """
    start = time.perf_counter()
    arguments = ['fit', *RUNS[name], f'--name={name}', f'--trainer.default_root_dir={folder}']
    log = folder / f'{name}.log'
    # One thread for each run: models this small lose more to synchronizing threads than they gain.
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'WANDB_MODE': 'offline'}
    status = children.run([sys.executable, '-m', 'experiments.cli', *arguments], log, environment)
    if status:
        raise SystemExit(f'{name} failed, see {log}:\n' + '\n'.join(log.read_text().splitlines()[-5:]))
    return time.perf_counter() - start


def main() -> None:
    """Trains the three models, two at a time if there are two cores, then prints their table and draws their figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--folder', type=Path, default=Path('runs/demo'), help='folder of the runs, the table and the figure'
    )
    folder = parser.parse_args().folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f'--folder {folder} cannot be created: {error.strerror}.')
    print(f'Training {", ".join(reversed(RUNS))}; follow them in {folder}/*.log ...', flush=True)
    with short_errors(sys.argv), ended_by_signals('Stopped. `python -m experiments.report` shows what is there.'):
        train_all(folder)
        show(folder)


def train_all(folder: Path) -> None:
    """Trains the three models, two at a time if there are two cores."""
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool, Children() as children:
        pending = {name: pool.submit(train, name, folder, children) for name in RUNS}
        for name, seconds in pending.items():
            print(f'  {name}: {seconds.result():.0f} s', flush=True)


def show(folder: Path) -> None:
    """Prints the table of the newest run of each model and draws its figure."""
    results = [read_runs(versions(folder / name)[-1])[0] for name in reversed(RUNS)]
    table = str(run_table(results))
    write_text(folder / 'table.md', table + '\n')
    save_figure(success_over_epochs(results), folder / 'demo.png', dpi=150)
    print(f'\n{table}\n\nFigure: {folder / "demo.png"}')


if __name__ == '__main__':
    main()
