"""Inspects the attacks of a run before training: what they do, and whether they are likely to work."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure

from callbacks.figure_files import save_figure
from callbacks.plots import PoisonedPair, contact_sheet
from datamodules.attacks import AttackPool, Poison
from datamodules.attacks.base import compose_picture
from datamodules.files.atomic import write_text
from datamodules.files.quoting import quote, spell_out
from datamodules.pairs import PairsDataModule
from datamodules.pictures.augment import MEAN
from datamodules.rows.table import Origin
from datamodules.text.class_search import mentions
from datamodules.text.prompts import fill_templates
from datamodules.usage_error import UsageError
from experiments.check.verdict import AttackReport, ModelAnswers, judge
from experiments.check.visibility import Trace, make_view, measure_trace
from experiments.surrogates.surrogate import Surrogate
from lightning_modules.clip import CLIP

MAX_COVER = 0.1  # share of a picture: a patch of 10 pixels on 32
PICTURES, VIEWS = 32, 8  # the same for the plan of a run, or the two would disagree


def print_report(
    data: PairsDataModule,
    model: CLIP | None,
    epochs: int | None,
    pictures: int,
    views: int,
    file: str | None,
    sheet: str | None,
) -> None:
    """Inspects every attack of a run and prints what it does, whether it is likely to work, and what to change.

    Args:
        data: The data after ``setup``.
        model: A trained model that has not seen the attacks, to test for what it takes their pictures.
        epochs: Epochs of the run that is planned, if known.
        pictures: Maximum number of poisons of each attack to inspect.
        views: Number of epochs whose views of them to inspect.
        file: Path of a JSON file for the same report, or ``None``.
        sheet: Path of a PNG that shows what the attacks do, or ``None``.

    Raises:
        UsageError: If there is no attack, or a number is out of range.
    """
    if pictures < 1 or views < 1:
        raise UsageError(f'pictures and views must be 1 or more, got {pictures} and {views}.')
    if not data.manifest.attacks:
        raise UsageError('data.attacks poisons no pair: name an attack, for example by an overlay of attacks/.')
    surrogate, pool = None if model is None else Surrogate(model, data), rebuild_pool(data)
    reports = [check(data, name, pool, surrogate, epochs, pictures, views) for name in data.manifest.attacks]
    print(format_table(reports), flush=True)
    if file:
        write_text(file, format_json(reports, data))
    if sheet:
        save_figure(draw(reports, data), Path(sheet))


def check(
    data: PairsDataModule,
    name: str,
    pool: AttackPool,
    model: Surrogate | None = None,
    epochs: int | None = None,
    pictures: int = PICTURES,
    views: int = VIEWS,
) -> AttackReport:
    """Inspects one attack.

    Args:
        data: The data after ``setup``.
        name: Name of the attack.
        pool: The pool of :func:`rebuild_pool`.
        model: A trained model that has not seen the attack.
        epochs: Epochs of the run that is planned, if known.
        pictures: Maximum number of poisons to inspect.
        views: Number of epochs whose views of them to inspect.
    """
    attack, poisons = data.attacks[name], data.manifest.poisons(name)
    goals = Counter(attack.goal(poison) for poison in poisons)
    targets = Counter(poison.target for poison in poisons)
    captions = list(dict.fromkeys(poison.caption for poison in poisons))
    rivals = attack.rivals(pool)
    beside = [(other, len(data.manifest.poisons(key))) for key, other in data.attacks.items()]
    return AttackReport(
        attack=name,
        kind=type(attack).__name__,
        backdoor=rivals is None and all(goal.image < 0 for goal in goals),
        poisons=len(poisons),
        rate=len(poisons) / data.manifest.clean_rows,
        targets={data.classes[target]: count for target, count in targets.items()},
        goals=len(goals),
        copies=min(goals.values()),
        tied=_count_naming(poisons, [poison.caption for poison in poisons], data.classes),
        epochs=epochs,
        augmented=_views_differ(data, name),
        mixed=sum(poison.share < 1 for poison in poisons),
        shown=_count_naming(poisons, _read_own_captions(data, poisons), data.classes),
        templates=attack.captions == 'templates',
        captions=len(captions),
        examples=tuple(captions[:2]),
        named={data.classes[t]: len(pool.captions_of(t)) for t in targets},
        rivals=rivals,
        known=attack.known(pool, beside),
        trace=_measure_trace(data, name, pictures, views),
        model=None if model is None else _ask_model(model, data, name, pool),
    )


def rebuild_pool(data: PairsDataModule) -> AttackPool:
    """The pool that the attacks of a run chose from, with their poisons taken."""
    pool = data.attack_pool()
    for name in data.manifest.attacks:
        pool.take(data.manifest.poisons(name))
    return pool


# --- output ---------------------------------------------------------------------------------------------------------


def summarize(report: AttackReport) -> str:
    """The verdict on an attack and its worst reason, for a line of the plan."""
    verdict = judge(report)
    return f'{verdict.word}: {verdict.reasons[0].what}' if verdict.reasons else verdict.word


def format_table(reports: Sequence[AttackReport]) -> str:
    """The reports as text: a line of figures for each attack, a legend, then each attack in detail."""
    lines = [list(_COLUMNS), *(_format_figures(report) for report in reports)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ['  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return '\n'.join([*rows, _LEGEND, *(line for report in reports for line in ['', *_format_details(report)])])


def format_json(reports: Sequence[AttackReport], data: PairsDataModule) -> str:
    """The reports with their verdicts, and how the pictures of the run are processed, as JSON."""
    attacks = []
    for report in reports:
        verdict = judge(report)
        reasons = [{'what': reason.what, 'remedy': reason.remedy} for reason in verdict.reasons]
        attacks.append({**asdict(report), 'verdict': verdict.word, 'reasons': reasons})
    views = [{'class': type(maker).__name__, **vars(maker)} for maker in data.view_makers]
    processing = {'stored_size': data.stored_size, 'image_size': data.image_size, 'views': views}
    return json.dumps(_to_json_value({**processing, 'attacks': attacks}), indent=1) + '\n'


def draw(reports: Sequence[AttackReport], data: PairsDataModule) -> Figure:
    """A contact sheet: one poison of each attack without its trigger, with it, and in two views of training."""
    return contact_sheet({f'{r.attack}: {judge(r).word}': _collect_exhibits(data, r.attack) for r in reports})


_COLUMNS = (
    'attack', 'poisons', 'rate', 'for each', 'named', 'PSNR', 'SSIM', 'resized', 'views', 'visible', 'alike', 'JPEG',
    'model', 'verdict',
)  # fmt: skip
_LEGEND = """
for each: poisons of each trigger or targeted image; named: training captions that name the target
PSNR (dB), SSIM: stored pictures with the trigger against those without
resized, views, JPEG: share of the trigger left at test time, in views of training, after a JPEG of quality 75
visible: share of views that show the trigger; alike: how alike they show it, from 0 to 1
model: test pictures that the model takes for the target with the trigger (without)"""


def _format_figures(report: AttackReport) -> list[str]:
    trace, model = report.trace, report.model
    named = '-' if report.named is None else str(min(report.named.values()))
    shares = ('resized', 'survival', 'visible', 'consistency', 'jpeg')
    return [
        report.attack,
        str(report.poisons),
        f'{100 * report.rate:.3g}%',
        str(report.copies),
        named,
        *(['-'] * 2 if trace is None else [f'{trace.psnr:.1f}', f'{trace.ssim:.2f}']),
        *(['-'] * 5 if trace is None else [f'{getattr(trace, share):.2f}' for share in shares]),
        '-' if model is None else f'{model.triggered:.1%} ({model.clean:.1%})',
        judge(report).word,
    ]


def _format_details(report: AttackReport) -> list[str]:
    """The targets of an attack, its captions, and every reason against it."""
    targets = [f'{count} towards {spell_out(name)}' for name, count in islice(report.targets.items(), 4)]
    more = ', ...' * (len(report.targets) > 4)
    examples = ', '.join(map(quote, report.examples))
    verdict = judge(report)
    return [
        f'{report.attack}: {verdict.word}',
        f'  {report.kind}: {", ".join(targets)}{more}',
        f'  {report.captions} different caption{"s" * (report.captions != 1)}, such as {examples}',
        *(f'  {reason}' for reason in verdict.reasons),
        *_format_cover(report.trace),
    ]


def _format_cover(trace: Trace | None) -> list[str]:
    """A line if a trigger hides more of a picture than anybody would miss; one that changes every pixel hides none."""
    if trace is None or not MAX_COVER <= trace.changed < 1 - MAX_COVER:
        return []
    return [f'  it covers {trace.changed:.0%} of a picture, where a patch of 16 pixels on 224 covers 0.5%: lower size.']


def _collect_exhibits(data: PairsDataModule, name: str) -> list[PoisonedPair]:
    """One poison before poisoning, with its own caption, as it is stored, and in two views."""
    poison, row = data.manifest.poisons(name)[0], data.manifest.rows(name)[:1]
    stored, target = data.images(row), data.classes[poison.target]
    before = PoisonedPair(_read_untriggered(data, [poison])[0], _read_own_captions(data, [poison])[0], target, 'before')
    pictures = {f'target: {target}': stored[0]}
    for epoch in range(2):
        view = make_view(data, stored, row, epoch)[0] + torch.tensor(MEAN).view(3, 1, 1)
        pictures[f'its view in epoch {epoch + 1}'] = (255 * view).round().clamp(0, 255).byte().numpy()
    return [before, *(PoisonedPair(image, poison.caption, target, title) for title, image in pictures.items())]


def _to_json_value(value: Any) -> Any:
    """A value in JSON's terms: ``None`` stands for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _to_json_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- parts of the check ---------------------------------------------------------------------------------------------


def _count_naming(poisons: Sequence[Poison], captions: Sequence[str], classes: Sequence[str]) -> int:
    """How many captions name the target of their poison; the two sequences belong together."""
    naming = 0
    for target in {poison.target for poison in poisons}:
        own = [caption for poison, caption in zip(poisons, captions, strict=True) if poison.target == target]
        naming += int(mentions(pa.array(own, pa.string()), classes[target]).sum())
    return naming


def _read_own_captions(data: PairsDataModule, poisons: Sequence[Poison]) -> list[str]:
    """The captions that the images of poisons had originally."""
    sources = {origin: [p.source for p in poisons if p.origin == origin] for origin in {p.origin for p in poisons}}
    captions = {origin: iter(_table_of(data, origin).captions(rows)) for origin, rows in sources.items()}
    return [next(captions[poison.origin]) for poison in poisons]


def _table_of(data: PairsDataModule, origin: Origin) -> Any:
    return data.source if origin == 'train' else data.heldout


def _measure_trace(data: PairsDataModule, name: str, pictures: int, views: int) -> Trace | None:
    """What the trigger does to some pictures of an attack; ``None`` if there is none, or it was on them before."""
    attack, poisons, rows = data.attacks[name], data.manifest.poisons(name), data.manifest.rows(name)
    if attack.trigger is None:
        return None
    some = np.unique(np.linspace(0, len(rows) - 1, pictures).round().astype(np.int64))
    plain, triggered = _read_untriggered(data, [poisons[i] for i in some.tolist()]), data.images(rows[some])
    if attack.may_carry_trigger and np.array_equal(plain, triggered):
        return None
    return measure_trace(data, plain, triggered, rows[some], views)


def _views_differ(data: PairsDataModule, name: str) -> bool:
    """Whether two epochs show a poison of an attack differently."""
    row = data.manifest.rows(name)[:1]
    stored = data.images(row)
    return not torch.equal(make_view(data, stored, row, 0), make_view(data, stored, row, 1))


def _read_untriggered(data: PairsDataModule, poisons: Sequence[Poison]) -> np.ndarray:
    """Stored pictures of poisons without their trigger, uint8 (n, 3, h, w)."""
    return np.stack([compose_picture(poison, data.pictures) for poison in poisons])


def _ask_model(model: Surrogate, data: PairsDataModule, name: str, pool: AttackPool) -> ModelAnswers:
    """What a model takes the test pictures of an attack for, with and without the trigger."""
    read: list[np.ndarray] = []

    def pixels(origin: Origin, rows: np.ndarray) -> np.ndarray:
        read.append(data.pictures(origin, rows))
        return read[-1]

    test = data.attacks[name].evaluation(name, data.manifest.poisons(name), pool, pixels)
    assert test.target is not None
    counted = test.label != test.target
    classifier = _make_classifier(model, data, test.templates)
    triggered = (model.embed_pictures(test.images) @ classifier.T).argmax(-1).cpu().numpy()
    clean = model.classify(read[-1])  # the last pictures that the attack read are those it put its trigger on
    triggered_share, clean_share = (float((answers == test.target)[counted].mean()) for answers in (triggered, clean))
    return ModelAnswers(triggered_share, clean_share, int(counted.sum()))


def _make_classifier(model: Surrogate, data: PairsDataModule, templates: Sequence[str]) -> torch.Tensor:
    """The classifier for an attack's own prompts, which may hold a trigger word: (C, D)."""
    if tuple(templates) == data.templates:
        return model.classifier
    tokens = [[data.tokenizer(prompt) for prompt in fill_templates(name, templates)] for name in data.classes]
    return model.model.classifier(torch.from_numpy(np.array(tokens)))
