"""What a run measured, and which runs are repetitions of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from callbacks.metric_names import PROBE_PREFIX, ZERO_SHOT_PREFIX, parse_asr_metric, probe_metric, zero_shot_metric

TRUSTED = 'partition/trusted'  # logged with each split: 1 if what was measured does not speak against it
LEAK_PREFIX = 'partition/leak/'  # and the name of an attack: share of its poisons on the safe side


@dataclass(frozen=True)
class Result:
    """What a run measured.

    Attributes:
        name: Name of the run; repetitions with other seeds share it.
        seed: Seed of training.
        epochs: Planned epochs.
        series: Metric -> points ``(epochs trained, value)``, in ascending order of epochs; finite values only.
        seconds: Seconds of training, sweeps and mixture fits, without evaluation.
        poisons: Attack -> number of its poisoned pairs in the manifest. With ``data.poison=false``, these are the pairs
            that the run did not train on.
        kept: Share of the pairs that ``data.filters`` left to train on; ``None`` without filters or if not known.
        kept_poisons: Attack -> number of its poisoned pairs among them.
        data_seed: Seed of poisons, batches and views; ``None`` if it is not known.
        settings: Digest of what repetitions have in common; empty if it is not known.
        command: Arguments of the command that made it, if a grid did.
        caveat: Why the run is not a whole one, such as ``not finished``; empty for a whole run.
        source: Where the result was read from.
    """

    name: str
    seed: int
    epochs: int
    series: dict[str, list[tuple[int, float]]]
    seconds: float
    poisons: dict[str, int] = field(default_factory=dict)
    kept: float | None = None
    kept_poisons: dict[str, int] = field(default_factory=dict)
    data_seed: int | None = None
    settings: str = ''
    command: str = ''
    caveat: str = ''
    source: str = ''

    def last(self, metric: str) -> float | None:
        """Latest value of a metric; ``None`` if it was not measured."""
        return self.series[metric][-1][1] if self.series.get(metric) else None

    def first(self, metric: str) -> float | None:
        """Earliest value of a metric; ``None`` if it was not measured."""
        return self.series[metric][0][1] if self.series.get(metric) else None

    @property
    def attacks(self) -> list[str]:
        """Attacks whose success was measured."""
        names = map(parse_asr_metric, self.series)
        return [name.attack for name in names if name and name.what == 'hits']

    @property
    def accuracy_metric(self) -> str:
        """Name of the zero-shot accuracy on the clean set that is first in alphabetical order."""
        return self._first_metric(ZERO_SHOT_PREFIX, zero_shot_metric('heldout'))

    @property
    def probe_metric(self) -> str:
        """Name of the accuracy of a probe on the set of :attr:`accuracy_metric`, or on the first set that has one."""
        same_set = probe_metric(self.accuracy_metric.removeprefix(ZERO_SHOT_PREFIX))
        return same_set if same_set in self.series else self._first_metric(PROBE_PREFIX, same_set)

    def _first_metric(self, prefix: str, default: str) -> str:
        return next((metric for metric in self.series if metric.startswith(prefix)), default)

    @property
    def distrusted_after(self) -> int | None:
        """Epochs trained before the first split that could not be trusted; ``None`` if there was none."""
        return next((epochs for epochs, trusted in self.series.get(TRUSTED, []) if not trusted), None)

    @property
    def knows_poisons(self) -> bool:
        """Whether some poisoned pairs are known. If not, no pair is known to be clean either."""
        return bool(self.poisons or self.attacks)


def are_repetitions(results: Sequence[Result]) -> bool:
    """Whether results of one name are whole runs that differ by their seeds alone; a single one is."""
    seeds = {(result.data_seed, result.seed) for result in results}
    plans = {(result.epochs, result.settings) for result in results}
    is_whole = not any(result.caveat for result in results)
    return len(results) < 2 or (len(seeds) == len(results) and len(plans) == 1 and is_whole)


def group_repetitions(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Label -> the results that share a row or a curve, in the order of first appearance.

    Results of one name share it if they are repetitions of each other. Otherwise each is on its own, labeled by where
    it was read from.
    """
    by_name: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_name[result.name].append(result)
    groups: dict[str, list[Result]] = {}
    for name, runs in by_name.items():
        if are_repetitions(runs):
            groups[_unused(name, groups)] = runs
        else:
            for run in runs:
                groups[_unused(run.source or name, groups)] = [run]
    return groups


def _unused(label: str, groups: dict[str, list[Result]]) -> str:
    return label if label not in groups else f'{label} ({len(groups) + 1})'


def caveats(results: Sequence[Result]) -> list[str]:
    """What must be said of the numbers of results that share a row, a sentence each."""
    sentences = [
        f'{result.name}, seed {result.seed}: {caveat}.' for result in results for caveat in _caveats(result) if caveat
    ]
    if not any(result.caveat for result in results) and not are_repetitions(results):
        sentences.append(f'{results[0].name}: its runs differ by more than their seeds.')
    return sentences


def _caveats(result: Result) -> list[str]:
    epochs = result.distrusted_after
    return [result.caveat, '' if epochs is None else f'its split after epoch {epochs} could not be trusted']


def star(results: Sequence[Result]) -> str:
    """A mark for numbers that have caveats."""
    return '*' if caveats(results) else ''


def attacks_in(results: Iterable[Result]) -> list[str]:
    """Attacks whose success any of the results measured, in the order of first appearance."""
    return list(dict.fromkeys(attack for result in results for attack in result.attacks))


def attacks_in_splits(results: Iterable[Result]) -> list[str]:
    """Attacks whose poisons any of the splits has judged, in alphabetical order."""
    metrics = {metric for result in results for metric in result.series}
    return sorted(metric.removeprefix(LEAK_PREFIX) for metric in metrics if metric.startswith(LEAK_PREFIX))


def last_values(results: Iterable[Result], metric: str) -> list[float]:
    """Latest value of a metric in each result that measured it."""
    return [value for result in results if (value := result.last(metric)) is not None]


def first_values(results: Iterable[Result], metric: str) -> list[float]:
    """Earliest value of a metric in each result that measured it."""
    return [value for result in results if (value := result.first(metric)) is not None]
