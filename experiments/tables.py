"""Tables of results.

Runs that differ by their seeds alone share a cell. Hits and counts of an attack are added up, so the interval is that
of all images together; the standard deviation of the runs' rates, of which it says nothing, stands behind it. Other
numbers are means, followed by the smallest and the largest value. A star marks what comes from a run that is not whole,
a dagger a success that is low because the model hardly ever says the target class; lines below the table say why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import stdev

from callbacks.attack_success import MIN_ESTABLISHED_RATE, MIN_RECALL, is_unsaid
from callbacks.intervals import wilson_interval
from callbacks.metric_names import Head, asr_metric
from experiments.results import (
    LEAK_PREFIX,
    Result,
    attacks_in,
    attacks_in_splits,
    caveats,
    first_values,
    group_repetitions,
    last_values,
    star,
)
from experiments.table_forms import Table

MIN_IMAGES_FOR_A_RATE = 101  # below, an attack's success is shown as hits of all images
UNSAID = '†'
THROUGH: dict[Head, str] = {'probe': 'through a probe', 'knn': 'through k-NN', 'retrieval': 'through retrieval'}


def run_table(results: Sequence[Result]) -> Table:
    """A table with a row for each run, or for all its repetitions with other seeds.

    If no attack's success was measured, as in runs that end at their first split, it says how well the split's scores
    tell the poisons.
    """
    attacks = attacks_in(results)
    split_alone = [] if attacks else attacks_in_splits(results)
    has_filters = any(run.kept is not None for run in results)
    has_probe = any(run.probe_metric in run.series for run in results)
    groups = group_repetitions(results)
    deviation = ' ± sd' * any(len(runs) > 1 for runs in groups.values())
    head = [
        'run',
        'seeds',
        *['pairs kept'] * has_filters,
        'zero-shot',
        *['probe'] * has_probe,
        *(f'{attack} ASR [95 %]{deviation} (clean)' for attack in attacks),
    ]
    through = through_features(results, attacks)
    head += [f'{attack} ASR {THROUGH[by]} [95 %] (clean)' for attack, by in through]
    recalled = [a for a in attacks if last_values(results, asr_metric(a, 'recall'))]
    head += [f'recall of its target, {attack}' for attack in recalled]
    head += ['first split: share', *(f'leak {attack}' for attack in [*attacks, *split_alone])]
    head += [f'AUROC {attack}' for attack in split_alone]
    head += ['last split: share', 'contamination', 'training, s']
    rows = [
        _run_row(label + star(runs), runs, attacks, through, split_alone, recalled, has_filters, has_probe)
        for label, runs in groups.items()
    ]
    return Table.of([head, *rows], notes(rows, groups.values()))


def _run_row(
    label: str,
    runs: Sequence[Result],
    attacks: Sequence[str],
    through: Sequence[tuple[str, Head]],
    split_alone: Sequence[str],
    recalled: Sequence[str],
    has_filters: bool,
    has_probe: bool,
) -> list[str]:
    row = [
        label,
        str(len(runs)),
        *[_kept(runs)] * has_filters,
        format_spread(last_values(runs, runs[0].accuracy_metric)),
        *[format_spread(last_values(runs, runs[0].probe_metric))] * has_probe,
    ]
    row += [_success(runs, attack) for attack in attacks] + [_success(runs, attack, by) for attack, by in through]
    row += [format_spread(last_values(runs, asr_metric(attack, 'recall'))) for attack in recalled]
    row += [format_spread(first_values(runs, 'partition/share'))]
    row += [format_spread(first_values(runs, f'{LEAK_PREFIX}{attack}')) for attack in [*attacks, *split_alone]]
    row += [format_spread(first_values(runs, f'partition/auroc/{attack}')) for attack in split_alone]
    row += [format_spread(last_values(runs, 'partition/share'))]
    row += [format_spread(last_values([run for run in runs if run.knows_poisons], 'partition/contamination'))]
    return [*row, f'{sum(run.seconds for run in runs) / len(runs):.0f}']


def attack_table(cells: Mapping[str, Mapping[str, Sequence[Result]]], undefended: str | None = None) -> Table:
    """A table with a row for each attack and a column for each method.

    Args:
        cells: Set of attacks -> method -> runs, repetitions with other seeds.
        undefended: Method whose success tells whether an attack works. Attacks below ``MIN_ESTABLISHED_RATE`` are
            marked as not established.
    """
    methods = list(dict.fromkeys(method for runs in cells.values() for method in runs))
    rows = [['attack', 'poisons', *methods]]
    for attack_set, runs_of in cells.items():
        attacks = attacks_in(run for runs in runs_of.values() for run in runs)
        for attack in attacks:
            weak = success_rate(runs_of.get(undefended or '', ()), attack) < MIN_ESTABLISHED_RATE
            label = row_label(attack, attack_set, is_alone=len(attacks) == 1) + ': attack not established' * weak
            cells_of_row = [attack_cell(runs_of.get(method, ()), attack) for method in methods]
            rows.append([label, _format_poisons(runs_of, attack), *cells_of_row])
            for _, by in through_features([run for runs in runs_of.values() for run in runs], [attack]):
                cells_of_row = [_success(runs_of.get(method, ()), attack, by) for method in methods]
                rows.append([row_label(f'{attack} {THROUGH[by]}', attack_set), '', *cells_of_row])
        kept = [_kept(runs_of.get(method, ())) for method in methods]
        if any(cell != '-' for cell in kept):
            rows.append([row_label('pairs kept', attack_set), '', *kept])
        accuracy = [format_spread(_accuracies(runs_of.get(method, ()))) for method in methods]
        rows.append([row_label('zero-shot accuracy', attack_set), '', *accuracy])
        probed = [_probe_accuracies(runs_of.get(method, ())) for method in methods]
        if any(probed):
            rows.append([row_label('probe accuracy', attack_set), '', *map(format_spread, probed)])
    every_cell = (runs for runs_of in cells.values() for runs in runs_of.values())
    return Table.of(rows, notes(rows[1:], every_cell))


def attack_cell(runs: Sequence[Result], attack: str, head: Head = 'prompts') -> str:
    """Success over all images of all seeds with its interval, the seeds' deviation, and the rate on clean images."""
    return _success(runs, attack, head) + star(runs)


def through_features(results: Iterable[Result], attacks: Sequence[str]) -> list[tuple[str, Head]]:
    """The attacks whose success was also measured on the features of the image tower, and by which classifiers."""
    measured = {metric for result in results for metric in result.series}
    return [(attack, head) for attack in attacks for head in THROUGH if asr_metric(attack, 'n', head) in measured]


def _success(runs: Sequence[Result], attack: str, head: Head = 'prompts') -> str:
    hits, n = _hits_and_images(runs, attack, head)
    if not n:
        return '-'
    low, high = wilson_interval(hits, n)
    clean = last_values(runs, asr_metric(attack, 'clean', head))
    if n < MIN_IMAGES_FOR_A_RATE:
        success = f'{hits}/{n} [{low:.2f}, {high:.2f}]'
    else:
        success = f'{hits / n:.3f} [{low:.3f}, {high:.3f}]'
    mark = UNSAID if is_unsaid(hits / n, _recall(runs, attack, head)) else ''
    of_clean = f' ({sum(clean) / len(clean):.3f})' if clean else ''
    return success + _deviation(last_values(runs, asr_metric(attack, 'rate', head))) + of_clean + mark


def _deviation(values: Sequence[float]) -> str:
    """Standard deviation over seeds, of the population that they are a sample of."""
    return f' ± {stdev(values):.3f}' if len(values) > 1 else ''


def _kept(runs: Sequence[Result]) -> str:
    """Share of the pairs that filters left to train on, and how many poisons, of all seeds, were among them."""
    filtered = [run for run in runs if run.kept is not None]
    attacks = dict.fromkeys(attack for run in filtered for attack in run.kept_poisons)
    poisons = [
        f'{sum(run.kept_poisons.get(attack, 0) for run in filtered)} of '
        f'{sum(run.poisons.get(attack, 0) for run in filtered)} {attack}'
        for attack in attacks
    ]
    return '; '.join([format_spread([run.kept for run in filtered if run.kept is not None]), *poisons])


def _hits_and_images(runs: Sequence[Result], attack: str, head: Head = 'prompts') -> tuple[int, int]:
    hits, n = (sum(last_values(runs, asr_metric(attack, what, head))) for what in ('hits', 'n'))
    return round(hits), int(n)


def _recall(runs: Sequence[Result], attack: str, head: Head) -> float:
    """Mean recall of the attack's target class; NaN if no run measured it."""
    values = last_values(runs, asr_metric(attack, 'recall', head))
    return sum(values) / len(values) if values else math.nan


def success_rate(runs: Sequence[Result], attack: str) -> float:
    """Success over all images of all runs; NaN if there are no images."""
    hits, n = _hits_and_images(runs, attack)
    return hits / n if n else math.nan


def _accuracies(runs: Sequence[Result]) -> list[float]:
    return last_values(runs, runs[0].accuracy_metric) if runs else []


def _probe_accuracies(runs: Sequence[Result]) -> list[float]:
    return last_values(runs, runs[0].probe_metric) if runs else []


def _format_poisons(runs_of: Mapping[str, Sequence[Result]], attack: str) -> str:
    """Numbers of poisons that the runs of an attack used, usually one number."""
    counts = {run.poisons[attack] for runs in runs_of.values() for run in runs if attack in run.poisons}
    return ' to '.join(map(str, sorted(counts))) or '-'


def row_label(row: str, attack_set: str, is_alone: bool = False) -> str:
    """What a row is of, and under which set of attacks; the set alone for its only attack."""
    if not attack_set:
        return row
    return attack_set if is_alone else f'{row} ({attack_set})'


def format_spread(values: Sequence[float]) -> str:
    """Mean, then the smallest and the largest of several values."""
    if not values:
        return '-'
    mean = f'{sum(values) / len(values):.3f}'
    return mean if len(values) == 1 else f'{mean} ({min(values):.3f} to {max(values):.3f})'


def notes(rows: Iterable[Sequence[str]], cells: Iterable[Sequence[Result]]) -> Iterator[str]:
    """What the marks of a table mean, a line each.

    Args:
        rows: Rows of the table without its head; what is in their first column marks nothing.
        cells: Runs that share a cell.
    """
    yield from (f'* {sentence}' for runs in cells for sentence in caveats(runs))
    if any(UNSAID in cell for row in rows for cell in row[1:]):
        yield (
            f'{UNSAID} the target class is recognized in less than {MIN_RECALL:.0%} of its clean images, so low '
            f'success proves little.'
        )
