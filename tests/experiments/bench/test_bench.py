from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest

from datamodules.usage_error import UsageError
from experiments.bench import __main__ as bench
from experiments.bench import (
    bookkeeping,
    epochs,
    large_batches,
    mixture,
    neighbors,
    noise,
    phases,
    probe,
    prompts,
    remote_shards,
    retrieval,
    rows,
    run,
    scale,
    split,
    start,
    step,
    triggers,
    views,
    words,
)

TINY: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    'noise': (noise, {'ROWS': 40, 'SIZE': 8, 'BATCH': 8, 'BATCHES': 2}),
    'bookkeeping': (bookkeeping, {'ROWS': 300_000, 'HELDOUT_ROWS': 5_000}),
    'neighbors': (neighbors, {'ROWS': 300, 'QUERIES': 20, 'WIDTH': 8}),
    'epochs': (epochs, {'STEPS': 2, 'REPEATS': 1}),
    'split': (split, {'STEPS': 2, 'REPEATS': 1, 'ROWS': 480, 'EPOCHS': 4}),
    'mixture': (mixture, {'REPEATS_OF_SIZE': {300: 1}}),
    'views': (views, {'PAIRS': 2, 'REPEATS': 1, 'SIZE': 32}),
    'start': (start, {'COMMANDS': {'help': (['--help'], 1.0)}, 'REPEATS': 1}),
    'step': (
        step,
        {
            'CAPTION_LENGTHS': (4, 9),
            'TEXT_REPEATS': 1,
            'MODEL': 'tiny_toy.json',
            'MODEL_IMAGE_SIZE': 32,
            'MEMORY_MODEL': 'tiny_toy.json',
            'MEMORY_BATCH': 8,
            'CHUNK_SIZE': 4,
        },
    ),
    'run': (run, {'PAIRS': run.FEWEST_PAIRS, 'OPTIONS': (*run.OPTIONS, '--trainer.max_epochs=8')}),
    'defenses': (run, {'PAIRS': run.FEWEST_PAIRS, 'OPTIONS': (*run.OPTIONS, '--trainer.max_epochs=8')}),
    'phases': (phases, {'SCALES': (phases.Scale('tiny_toy.json', 32, (40, 30), {}, 4, 3),), 'MAX_REST': 100}),
    'triggers': (triggers, {'PICTURES': 2, 'REPEATS': 1, 'SIZE': 32}),
    'probe': (probe, {'WIDTH': 16, 'TEST_FEATURES': 50}),
    'prompts': (prompts, {'TEMPLATES': {'tiny_toy.json': 2}, 'CLASSES': 3}),
    'retrieval': (retrieval, {'PICTURES': 200, 'WIDTH': 8}),
    'words': (words, {'MODEL': 'tiny_toy.json', 'PAIRS': 4}),
    'scale': (scale, {}),
}
TINY_PARTS: list[tuple[ModuleType, dict[str, Any]]] = [  # of scale
    (large_batches, {'BATCH': 2048, 'WIDTH': 4, 'POOL': 32, 'QUERIES': 8, 'POOL_WIDTH': 4}),
    (rows, {'PAIRS': 400_000, 'COLUMNS_ALONE': 8000}),
    (remote_shards, {'SHARDS': 4, 'PAIRS': 4, 'PHOTOS': 2, 'SIZE': 32, 'REPEATS': 1}),
]


@pytest.mark.slow
@pytest.mark.parametrize('name', TINY)
def test_prints_every_result(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module, sizes in [TINY[name], *TINY_PARTS]:
        for constant, value in sizes.items():
            monkeypatch.setattr(module, constant, value)
    results = bench.main(['--only', name, '--against', str(start.THIS_CHECKOUT)])
    printed = capsys.readouterr().out.splitlines()[2:]
    assert printed == [bench.format_line(result.cells()) for result in results]
    assert results and all(math.isfinite(result.value) for result in results)
    assert any(result.target for result in results) or name in ('defenses', 'retrieval')  # which only compare


def test_every_measurement_is_offered() -> None:
    assert bench.MEASUREMENTS.keys() == TINY.keys()


@pytest.mark.parametrize(
    'option',
    [
        '--threads=0',
        '--against=tests',
        '--peer=tests',
        '--peer=nowhere',
        '--peer=true',
        '--clip-benchmark=tests',
        '--clip-benchmark=true',
        '--pairs=64',
        '--features=9',
        '--pictures=tests',
    ],
)
def test_options_are_checked_before_anything_is_measured(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=f'^{option.split("=")[0]}'):
        bench.main([option])
    assert not capsys.readouterr().out
