"""The table on real images: ``python -m experiments.cifar10 --root data/cifar10``.

Five rows for each seed, each an ordinary ``clipward fit`` on 10,000 captioned CIFAR-10 images; what is done is
skipped, so that the command goes on where it was stopped. A finished run leaves one small JSON file in ``--results``,
and ``python -m experiments.report runs/cifar10/results/*.json`` makes the table from them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from experiments.report import by_name, load, read_run, save, table

HERE = Path(__file__).parent
CLIP, SAFECLIP = f'--config={HERE / "clip_cifar10.yaml"}', f'--config={HERE / "safeclip_cifar10.yaml"}'
ROWS = {
    'clip': [CLIP, '--data.image_views=null', '--data.caption_views=null'],
    'clip_augmented': [CLIP],
    'control': [SAFECLIP, f'--config={HERE / "ablations/no_repartition.yaml"}'],
    'safeclip': [SAFECLIP],
    'twin': [CLIP, '--data.poison=false'],  # what unpoisoned CLIP makes of the same targets and triggered images
}
SHARES = {  # SafeCLIP trusting fewer or more pairs, for the trade-off
    'safeclip_to_40': [SAFECLIP, '--callbacks.repartition.growth=0'],
    'safeclip_to_90': [SAFECLIP, '--callbacks.repartition.growth=0.1'],
}


def run(cell: tuple[str, int], root: Path, runs: Path, results: Path, extra: list[str]) -> str:
    """Trains one cell unless its result is there; returns a line that says how it went."""
    name, seed = cell
    kept = results / f'{name}_{seed}.json'
    if kept.exists():
        return f'{name} {seed}: done before'
    folder = runs / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, '-m', 'experiments.cli', 'fit', *(ROWS | SHARES)[name]]
    command += [f'--data.root={root}', f'--name={name}']
    command += [f'--seed_everything={seed}', f'--trainer.default_root_dir={folder}', *extra]
    started = sorted((folder / name).glob('version_*/checkpoints/last.ckpt'))
    command += [f'--ckpt_path={started[-1]}'] if started else []
    environment = {'OMP_NUM_THREADS': '1', 'WANDB_MODE': 'offline', **os.environ}
    with open(folder / f'{name}.log', 'a') as log:
        status = subprocess.run(command, stdout=log, stderr=log, env=environment).returncode
    if status:
        return f'{name} {seed}: failed, see {folder / name}.log'
    save(read_run(folder / name), kept)
    return f'{name} {seed}: done'


def main() -> None:
    """Trains what is missing, then prints the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--root', type=Path, required=True, help='folder with train/<class>/*.jpg and test/<class>/*.jpg'
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[11, 12, 13])
    parser.add_argument('--rows', nargs='+', choices=ROWS | SHARES, default=list(ROWS))
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time, one thread each')
    parser.add_argument('--runs', type=Path, default=Path('runs/cifar10'))
    parser.add_argument('--results', type=Path, default=Path('runs/cifar10/results'))
    options, extra = parser.parse_known_args()
    cells = [(name, seed) for seed in options.seeds for name in options.rows]
    work = partial(run, root=options.root, runs=options.runs, results=options.results, extra=extra)
    with ThreadPoolExecutor(options.jobs) as pool:
        for line in pool.map(work, cells):
            print(line, flush=True)
    rows = by_name(load(path) for path in sorted(options.results.glob('*.json')))
    print(table([result for name in ROWS | SHARES for result in rows.get(name, [])]))


if __name__ == '__main__':
    main()
