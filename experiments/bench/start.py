"""What a command costs before it does anything, beside the same command in another checkout."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.usage_error import UsageError
from experiments.bench.measure import Result

COMMANDS: dict[str, tuple[list[str], float]] = {  # arguments, and the most that they may cost over the other checkout
    'help': (['--help'], 1 / 3),
    'misspelled option': (['fit', '--trainer.max_epoch=3'], 1 / 3),
    'printed configuration': (['fit', '--config', 'experiments/safeclip_toy.yaml', '--print_config'], 1 / 2),
}
REPEATS = 3
THIS_CHECKOUT = Path(__file__).parents[2]


def measure(against: Path | None = None) -> Iterator[Result]:
    """Runs each command here and there in turns; the shortest of several times counts.

    Args:
        against: The other checkout, which is run by the same interpreter; only this one is measured if ``None``.

    Raises:
        UsageError: If there is no checkout.
    """
    if against is not None and not (against / 'experiments' / 'cli.py').is_file():
        raise UsageError(f'--against={against}: there is no checkout of this project.')
    checkouts = [THIS_CHECKOUT] if against is None else [THIS_CHECKOUT, against]
    for name, (arguments, target) in COMMANDS.items():
        times = [[cpu_seconds(arguments, checkout) for checkout in checkouts] for _ in range(REPEATS)]
        here, *there = (min(side) for side in zip(*times, strict=True))
        yield Result(f'{name}, of one core', here, 's')
        for other in there:
            yield Result(f'{name}, of one core, in the other checkout', other, 's')
            yield Result(f'{name} over the other checkout', here / other, target=target)


def cpu_seconds(arguments: Sequence[str], checkout: Path) -> float:
    """Processor time of a command, user and system, with all processes that it waits for.

    Args:
        arguments: What follows the command's name.
        checkout: Where it runs.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, '-m', 'experiments.cli', *arguments],
        cwd=checkout,
        env={key: value for key, value in os.environ.items() if key != 'PYTHONPATH'},  # the checkout's own files
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
