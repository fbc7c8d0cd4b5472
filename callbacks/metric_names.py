"""Names of the metrics that evaluation logs; no other file composes or parses them.

The quantity is a path component of its own, not a suffix of a name that the user chose. So the metrics of an attack
cannot overwrite those of another, whatever their names.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple, cast, get_args

AsrQuantity = Literal['rate', 'clean', 'low', 'high', 'hits', 'n', 'recall', 'recall_n']
Head = Literal['prompts', 'probe', 'knn', 'retrieval']  # what an attack is to deceive
Direction = Literal['i2t', 't2i']  # from picture to text, from text to picture
RetrievalQuantity = Literal[
    'r1', 'r1_low', 'r1_high',
    'r5', 'r5_low', 'r5_high',
    'r10', 'r10_low', 'r10_high', 'r10_chance', 'r10_chance_low', 'r10_chance_high',
    'medr', 'medr_low', 'medr_high', 'medr_chance', 'medr_chance_low', 'medr_chance_high',
    'meanr', 'above_chance', 'tied',
]  # fmt: skip

ASR_PREFIX = 'asr/'
HEAD_PREFIXES: dict[Head, str] = {
    'prompts': ASR_PREFIX, 'probe': 'asr_probe/', 'knn': 'asr_knn/', 'retrieval': 'asr_retrieval/',
}  # fmt: skip
PROBE_PREFIX = 'probe/'
KNN_PREFIX = 'knn/'
ZERO_SHOT_PREFIX = 'zero_shot/'
ZERO_SHOT_TOP5_PREFIX = 'zero_shot_top5/'
RETRIEVAL_PREFIX = 'retrieval/'
CANARY_PREFIX = 'canary/'
DETECTION_PREFIX = 'detect/'
INSPECTION_PREFIX = 'inspect/'
COST_PREFIX = 'cost/'
EPOCH_SECONDS = 'cost/train_s'
SWEEP_SECONDS, MIXTURE_SECONDS = 'cost/sweep_s', 'cost/mixture_s'
VIEWS = 'cost/views'

_OF_VERSION_1: tuple[AsrQuantity, ...] = ('rate', 'clean', 'low', 'high', 'hits', 'n')


class AsrName(NamedTuple):
    """Parts of the name of an attack success metric.

    Attributes:
        attack: Name of the attack.
        what: The quantity, see :class:`callbacks.attack_success.AttackSuccessRate`.
    """

    attack: str
    what: AsrQuantity


def asr_metric(attack: str, what: AsrQuantity, head: Head = 'prompts') -> str:
    """Name of an attack success metric: ``asr/<attack>/<what>``, or ``asr_<head>/...`` by other means than prompts."""
    return f'{HEAD_PREFIXES[head]}{attack}/{what}'


def parse_asr_metric(metric: str, head: Head = 'prompts') -> AsrName | None:
    """Attack and quantity of a metric; ``None`` if it does not measure an attack's success by these means."""
    prefix = HEAD_PREFIXES[head]
    attack, _, what = metric.removeprefix(prefix).rpartition('/')
    if not metric.startswith(prefix) or not attack or what not in get_args(AsrQuantity):
        return None
    return AsrName(attack, cast('AsrQuantity', what))


def zero_shot_metric(set_name: str) -> str:
    """Name of the top-1 accuracy on a clean set: ``zero_shot/<set>``."""
    return f'{ZERO_SHOT_PREFIX}{set_name}'


def zero_shot_top5_metric(set_name: str) -> str:
    """Name of the top-5 accuracy on a clean set: ``zero_shot_top5/<set>``."""
    return f'{ZERO_SHOT_TOP5_PREFIX}{set_name}'


def probe_metric(set_name: str) -> str:
    """Name of the accuracy of a linear probe on a clean set: ``probe/<set>``."""
    return f'{PROBE_PREFIX}{set_name}'


def knn_metric(set_name: str) -> str:
    """Name of the accuracy of the nearest neighbors' vote on a clean set: ``knn/<set>``."""
    return f'{KNN_PREFIX}{set_name}'


def retrieval_metric(set_name: str, direction: Direction, what: RetrievalQuantity) -> str:
    """Name of a measure of retrieval on the held-out pairs: ``retrieval/<set>/<direction>_<what>``."""
    return f'{RETRIEVAL_PREFIX}{set_name}/{direction}_{what}'


def parse_retrieval_set(metric: str) -> str | None:
    """Name of the set that a measure of retrieval is of; ``None`` if it is another metric."""
    name, _, rest = metric.removeprefix(RETRIEVAL_PREFIX).rpartition('/')
    direction, _, what = rest.partition('_')
    is_known = direction in get_args(Direction) and what in get_args(RetrievalQuantity)
    return name if metric.startswith(RETRIEVAL_PREFIX) and name and is_known else None


def retrieval_sets(metrics: Collection[str]) -> list[str]:
    """Names of the sets that some metrics measure retrieval on, in alphabetical order."""
    return sorted({name for metric in metrics if (name := parse_retrieval_set(metric))})


def canary_metric(what: str, canary: str | None = None) -> str:
    """Name of a measurement of one canary, or of its mean over all: ``canary/<what>/<name>`` or ``canary/<what>``."""
    return f'{CANARY_PREFIX}{what}' + ('' if canary is None else f'/{canary}')


def detection_metric(detector: str, attack: str, what: str) -> str:
    """Name of how well a detector finds the poisons of an attack: ``detect/<detector>/<attack>/<what>``."""
    return f'{DETECTION_PREFIX}{detector}/{attack}/{what}'


class DetectionName(NamedTuple):
    """Parts of the name of a detector's measurement.

    Attributes:
        detector: Name of the detector.
        attack: Name of the attack.
        what: The quantity, see :class:`callbacks.detection.Detectors`.
    """

    detector: str
    attack: str
    what: str


def parse_detection_metric(metric: str) -> DetectionName | None:
    """Parts of a metric; ``None`` if it does not measure how well a detector finds the poisons of an attack."""
    detector, _, rest = metric.removeprefix(DETECTION_PREFIX).partition('/')
    attack, _, what = rest.rpartition('/')
    return DetectionName(detector, attack, what) if metric.startswith(DETECTION_PREFIX) and attack else None


def detector_seconds(detector: str) -> str:
    """Name of the time that a detector takes: ``detect/<detector>/seconds``."""
    return f'{DETECTION_PREFIX}{detector}/seconds'


def flagged_metric(score: str, what: Literal['flagged', 'false_alarms']) -> str:
    """Name of the number of pairs that stand out in a score, or of clean ones among them: ``detect/<score>/<what>``."""
    return f'{DETECTION_PREFIX}{score}/{what}'


def inspection_metric(what: str) -> str:
    """Name of what the inspection of a trained model found: ``inspect/<what>``."""
    return f'{INSPECTION_PREFIX}{what}'


def phase_seconds(phase: str) -> str:
    """Name of the seconds of an epoch of a phase: ``cost/train_s/<phase>``."""
    return f'{EPOCH_SECONDS}/{phase}'


def parse_phase(metric: str) -> str | None:
    """Name of the phase whose epochs a metric times; ``None`` if it is another metric."""
    return metric.removeprefix(phase_seconds('')) if metric.startswith(phase_seconds('')) else None


def renamed_since_version_1(metrics: Collection[str]) -> dict[str, str]:
    """Current names of the metrics that result files and checkpoints of version 1 named differently.

    Version 1 had ``asr/<attack>``, ``asr/<attack>_clean`` and so on, and ``zero_shot/<set>_top5``. An attack is
    recognized by its hits and counts. Two metrics could share a name, such as the clean rate of ``badnet`` and the
    rate of ``badnet_clean``; only one of the values was kept, and it is read as the rate.

    Args:
        metrics: All metrics of one file or checkpoint.

    Returns:
        Old name -> current name; empty if current names are among them.
    """
    present, current = set(metrics), dict[str, str]()
    if any(parse_asr_metric(metric) or metric.startswith(ZERO_SHOT_TOP5_PREFIX) for metric in present):
        return {}
    counted = [m.removeprefix(ASR_PREFIX).removesuffix('_n') for m in present if m.startswith(ASR_PREFIX)]
    attacks = [attack for attack in counted if {f'asr/{attack}_hits', f'asr/{attack}_n'} <= present]
    for attack in attacks:
        current |= {f'asr/{attack}_{what}': asr_metric(attack, what) for what in _OF_VERSION_1}
    current |= {f'asr/{attack}': asr_metric(attack, 'rate') for attack in attacks}
    sets = [m.removeprefix(ZERO_SHOT_PREFIX) for m in present if m.startswith(ZERO_SHOT_PREFIX)]
    current |= {f'zero_shot/{name}_top5': zero_shot_top5_metric(name) for name in sets}
    return {old: new for old, new in current.items() if old in present}
