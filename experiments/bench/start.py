"""CPU time of starting a command, compared with the same command in another checkout."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.usage_error import UsageError
from experiments.bench.measure import Result

COMMANDS: dict[str, tuple[list[str], float]] = {  # arguments, and the largest allowed ratio to the other checkout
    'help': (['--help'], 1 / 3),
    'misspelled option': (['fit', '--trainer.max_epoch=3'], 1 / 3),
    'printed configuration': (['fit', '--config', 'experiments/safeclip_toy.yaml', '--print_config'], 1 / 2),
}
REPEATS = 3
THIS_CHECKOUT = Path(__file__).parents[2]


def check_checkout(folder: Path) -> None:
    """Refuses a folder that is not a checkout.

    Raises:
        UsageError: If it does not hold the command.
    """
    if not (folder / 'experiments' / 'cli.py').is_file():
        raise UsageError(f'--against={folder} is not a checkout of Clipward: give the path of its root folder.')


def measure(against: Path | None = None) -> Iterator[Result]:
    """Runs each command in both checkouts in turn, several times, and compares the shortest times.

    Args:
        against: The other checkout, run by the same interpreter; ``None`` measures this checkout alone.
    """
    checkouts = [THIS_CHECKOUT] if against is None else [THIS_CHECKOUT, against]
    for name, (arguments, target) in COMMANDS.items():
        times = [[cpu_seconds(arguments, checkout) for checkout in checkouts] for _ in range(REPEATS)]
        shortest, *others = (min(by_checkout) for by_checkout in zip(*times, strict=True))
        yield Result(f'{name}, of one core', shortest, 's')
        for other in others:
            yield Result(f'{name}, of one core, in the other checkout', other, 's')
            yield Result(f'{name} over the other checkout', shortest / other, target=target)


def cpu_seconds(arguments: Sequence[str], checkout: Path) -> float:
    """CPU seconds of a command, user and system, including its child processes.

    Args:
        arguments: Arguments of the command.
        checkout: Folder to run it in.
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
