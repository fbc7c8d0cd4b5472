"""Cost of every defense of grids/cifar10_defenses.yaml over plain CLIP, with its first stages, in CPU seconds.

Evaluation, figures, attacks and detectors are left out. Runs take turns, so that a slow minute falls on all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from callbacks.ledger import FILE as LEDGER
from experiments.bench.measure import Result
from experiments.bench.run import (
    PAIRS,
    Cost,
    Job,
    data_options,
    defense_options,
    keep_options,
    only_file,
    train_in_turns,
)
from experiments.bench.start import THIS_CHECKOUT

NO_VIEWS = ('--data.image_views=null', '--data.caption_views=null')
CLEAN_SHARE = 0.1  # of the pairs, that repairs are trained on
KEPT_BY_FILTERS = 0.9  # share of the pairs
REPAIRS = ('finetune', 'cleanclip', 'par', 'abd')


def measure(pairs: int = PAIRS, pictures: Path | None = None) -> Iterator[Result]:
    """Trains every defense, then what needs the ledger or the weights of another run.

    Args:
        pairs: Number of pairs to train on.
        pictures: Folder as ``data.root`` takes it, with CIFAR-10's classes; drawn pictures if ``None``.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = data_options(folder, pairs, pictures)
        clip = Job(THIS_CHECKOUT, 'clip_cifar10.yaml', (*data, *NO_VIEWS))
        first = train_in_turns({'clip': clip, **first_stages(data, pairs)}, folder / 'first')
        yield from over_clip(first)
        ledger = only_file(folder / 'first' / 'safeclip', LEDGER)
        weights = only_file(folder / 'first' / 'clip', 'last.ckpt')
        second = train_in_turns({'clip': clip, **second_stages(data, pairs, ledger, weights)}, folder / 'second')
        yield from over_clip(
            second, {'retrain': ratio(first, 'safeclip'), 'filtered': 1.0, **dict.fromkeys(REPAIRS, 1.0)}
        )


def first_stages(data: tuple[str, ...], pairs: int) -> dict[str, Job]:
    """Defenses that train from scratch on all pairs, and SafeCLIP's control."""
    safeclip = (*data, *defense_options(pairs))
    return {
        'clip_augmented': Job(THIS_CHECKOUT, 'clip_cifar10.yaml', data),
        'control': Job(THIS_CHECKOUT, 'safeclip_cifar10.yaml', (*safeclip, '--callbacks.repartition=null')),
        'roclip': Job(THIS_CHECKOUT, 'roclip_cifar10.yaml', data),
        'safeclip': Job(THIS_CHECKOUT, 'safeclip_cifar10.yaml', safeclip),
    }


def second_stages(data: tuple[str, ...], pairs: int, ledger: Path, weights: Path) -> dict[str, Job]:
    """CLIP on what a ledger or a filter keeps, and repairs of a trained CLIP on clean pairs."""
    filtered = (*data, f'--data.filters.some={{class_path: RandomSubset, init_args: {{share: {KEPT_BY_FILTERS}}}}}')
    repair = (
        *data, f'--config={THIS_CHECKOUT / "experiments/presets/repair_cifar10.yaml"}',
        f'--data.filters.clean.count={round(CLEAN_SHARE * pairs)}', f'--model.init_from={weights}',
    )  # fmt: skip
    return {
        'retrain': Job(THIS_CHECKOUT, 'clip_cifar10.yaml', (*data, *keep_options(ledger))),
        'filtered': Job(THIS_CHECKOUT, 'clip_cifar10.yaml', filtered),
        **{
            name: Job(THIS_CHECKOUT, 'data/cifar10.yaml', (f'--config=methods/{name}.yaml', *repair))
            for name in REPAIRS
        },
    }


def over_clip(costs: Mapping[str, Cost], before: Mapping[str, float] | None = None) -> Iterator[Result]:
    """CPU seconds of each run over CLIP's, with those of its first stage, given over CLIP's as well."""
    for name in costs:
        if name != 'clip':
            yield Result(f'{name} over CLIP', ratio(costs, name) + (before or {}).get(name, 0.0))


def ratio(costs: Mapping[str, Cost], name: str) -> float:
    """CPU seconds of a run over those of the CLIP that it took turns with."""
    return costs[name].cpu / costs['clip'].cpu
