"""``make demo``: plain CLIP falls to two attacks, the control falls, SafeCLIP holds. Minutes on two CPU cores.

The control is SafeCLIP without its split: the same warm-up, views and steps, every pair safe.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.report import figure, read_run, table

HERE = Path(__file__).parent
RUNS = {  # the longest first
    'safeclip_toy': [f'--config={HERE / "safeclip_toy.yaml"}'],
    'control_toy': [f'--config={HERE / "safeclip_toy.yaml"}', f'--config={HERE / "ablations/no_repartition.yaml"}'],
    'clip_toy': [f'--config={HERE / "clip_toy.yaml"}'],
}


def train(name: str, folder: Path) -> float:
    """Runs ``clipward fit`` for one of the runs, its output in ``<folder>/<name>.log``; returns the seconds it took.

    Raises:
        SystemExit: If it fails, with the end of what it said.
    """
    start = time.perf_counter()
    arguments = ['fit', *RUNS[name], f'--name={name}', f'--trainer.default_root_dir={folder}']
    log = folder / f'{name}.log'
    # One thread a run: models this small lose more to hand-overs between threads than they gain.
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'WANDB_MODE': 'offline'}
    with open(log, 'w') as output:
        status = subprocess.run(
            [sys.executable, '-m', 'experiments.cli', *arguments], stdout=output, stderr=output, env=environment
        ).returncode
    if status:
        raise SystemExit(f'{name} failed, see {log}:\n' + '\n'.join(log.read_text().splitlines()[-5:]))
    return time.perf_counter() - start


def main() -> None:
    """Trains the three, two at a time where there are two cores, then prints their table and draws their figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', type=Path, default=Path('runs/demo'), help='where to keep runs, table and figure')
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    print(f'Training {", ".join(reversed(RUNS))}; follow them in {folder}/*.log ...', flush=True)
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        waiting = {name: pool.submit(train, name, folder) for name in RUNS}
        for name, run in waiting.items():
            print(f'  {name}: {run.result():.0f} s', flush=True)
    results = [read_run(folder / name) for name in reversed(RUNS)]
    text = table(results)
    (folder / 'table.md').write_text(text + '\n')
    figure(results).savefig(folder / 'demo.png', dpi=150)
    print(f'\n{text}\n\nFigure: {folder / "demo.png"}')


if __name__ == '__main__':
    main()
