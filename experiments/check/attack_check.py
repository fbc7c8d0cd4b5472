"""Looks at the attacks of a run before it is trained: what they do, and whether they are likely to work."""

from __future__ import annotations

import json
import math
import warnings
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

from callbacks.plots import PoisonedPair, contact_sheet
from datamodules.attacks import Attack, AttackPool, Backdoor, ClassSwap, LoneWord, Poison, TextTrigger
from datamodules.attacks.base import picture
from datamodules.attacks.pool import Origin
from datamodules.attacks.published import Published
from datamodules.pairs import PairsDataModule
from datamodules.pictures.augment import MEAN
from datamodules.text.class_search import mentions
from datamodules.text.prompts import prompts
from datamodules.usage_error import UsageError
from experiments.check.verdict import AttackReport, Seen, verdict
from experiments.check.visibility import Trace, seen, trace_of
from experiments.surrogates.surrogate import Surrogate
from lightning_modules.clip import CLIP

QUICK = 8, 4  # pictures and views for the plan: 0.6 s an attack at 224 pixels


def tell(
    data: PairsDataModule, model: CLIP | None, pictures: int, views: int, file: str | None, sheet: str | None
) -> None:
    """Looks at every attack of a run and prints what there is to say.

    Args:
        data: The data after ``setup``.
        model: A trained model that has not seen the attacks, for what it sees in them.
        pictures: Poisons of each attack to look at, at most.
        views: Epochs whose views of them to look at.
        file: Where to write the same as JSON.
        sheet: Where to draw what the attacks do, as a PNG.

    Raises:
        UsageError: If there is no attack, or a number is out of range.
    """
    if pictures < 1 or views < 1:
        raise UsageError(f'pictures and views must be 1 or more, got {pictures} and {views}.')
    if not data.manifest.attacks:
        raise UsageError('data.attacks poisons no pair: name an attack, for example by an overlay of attacks/.')
    surrogate, pool = None if model is None else Surrogate(model, data), pool_of(data)
    reports = [check(data, name, pool, surrogate, pictures, views) for name in data.manifest.attacks]
    print(table(reports), flush=True)
    for path in filter(None, (file, sheet)):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    if file:
        Path(file).write_text(as_json(reports, data))
    if sheet:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', r'Glyph .* missing from', UserWarning)  # captions in other scripts
            draw(reports, data).savefig(sheet)


def check(
    data: PairsDataModule,
    name: str,
    pool: AttackPool | None = None,
    model: Surrogate | None = None,
    pictures: int = QUICK[0],
    views: int = QUICK[1],
) -> AttackReport:
    """Looks at one attack.

    Args:
        data: The data after ``setup``.
        name: Name of the attack.
        pool: What attacks choose from, see :func:`pool_of`; ``None`` leaves out what takes a search of all captions.
        model: A trained model that has not seen the attack; needs ``pool``.
        pictures: Poisons to look at, at most.
        views: Epochs whose views of them to look at.
    """
    attack, poisons = data.attacks[name], data.manifest.poisons(name)
    goals = Counter(_goal(attack, poison) for poison in poisons)
    targets = Counter(poison.target for poison in poisons)
    captions = list(dict.fromkeys(poison.caption for poison in poisons))
    return AttackReport(
        attack=name,
        kind=type(attack).__name__,
        backdoor=isinstance(attack, Backdoor),
        poisons=len(poisons),
        rate=len(poisons) / data.manifest.clean_rows,
        targets={data.classes[target]: count for target, count in targets.items()},
        goals=len(goals),
        copies=min(goals.values()),
        tied=_naming(poisons, [poison.caption for poison in poisons], data.classes),
        shown=_naming(poisons, _own_captions(data, poisons), data.classes),
        templates=attack.captions == 'templates',
        captions=len(captions),
        examples=tuple(captions[:2]),
        named=None if pool is None else {data.classes[t]: len(pool.captions_of(t)) for t in targets},
        rivals=_rivals(data, attack, pool),
        known=_knowing(data, attack, pool),
        trace=_trace(data, name, pictures, views),
        model=None if pool is None or model is None else _seen_by(model, data, name, pool),
    )


def pool_of(data: PairsDataModule) -> AttackPool:
    """What the attacks of a run chose from, with their poisons taken."""
    pool, _ = data.clean_pool()
    for name in data.manifest.attacks:
        pool.take(data.manifest.poisons(name))
    return pool


# --- what comes of it -----------------------------------------------------------------------------------------------


def in_short(report: AttackReport) -> str:
    """The verdict on an attack and the worst of its reasons, for a line of the plan."""
    found = verdict(report)
    return f'{found.word}: {found.reasons[0].what}' if found.reasons else found.word


def table(reports: Sequence[AttackReport]) -> str:
    """The reports as text: a line of figures for each attack, what they are, then each attack in full."""
    lines = [list(_COLUMNS), *(_figures(report) for report in reports)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ['  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return '\n'.join([*rows, _LEGEND, *(line for report in reports for line in ['', *_in_full(report)])])


def as_json(reports: Sequence[AttackReport], data: PairsDataModule) -> str:
    """The reports, their verdicts, and the way that the pictures of the run take."""
    attacks = []
    for report in reports:
        found = verdict(report)
        reasons = [{'what': reason.what, 'remedy': reason.remedy} for reason in found.reasons]
        attacks.append({**asdict(report), 'verdict': found.word, 'reasons': reasons})
    views = [{'class': type(maker).__name__, **vars(maker)} for maker in data.view_makers]
    way = {'stored_size': data.stored_size, 'image_size': data.image_size, 'views': views}
    return json.dumps(_plain({**way, 'attacks': attacks}), indent=1) + '\n'


def draw(reports: Sequence[AttackReport], data: PairsDataModule) -> Figure:
    """A contact sheet: of each attack one poison without its trigger, with it, and as training sees it."""
    return contact_sheet({f'{r.attack}: {verdict(r).word}': _exhibits(data, r.attack) for r in reports})


_COLUMNS = (
    'attack', 'poisons', 'rate', 'for each', 'named', 'PSNR', 'SSIM', 'resized', 'views', 'visible', 'alike', 'JPEG',
    'model', 'verdict',
)  # fmt: skip
_LEGEND = """
for each: poisons of each trigger or targeted image; named: training captions that name the target
PSNR (dB), SSIM: stored pictures with the trigger to those without
resized, views, JPEG: what is left of the trigger at test time, in views of training, after a JPEG of quality 75
visible: share of views that show it; alike: how alike these are, from 0 to 1
model: test pictures that it takes for the target with the trigger (without)"""


def _figures(report: AttackReport) -> list[str]:
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
        verdict(report).word,
    ]


def _in_full(report: AttackReport) -> list[str]:
    """What an attack aims at, what its captions say, and everything that speaks against it."""
    targets = [f'{count} towards {name}' for name, count in islice(report.targets.items(), 4)]
    more = ', ...' * (len(report.targets) > 4)
    said = ', '.join(f'"{caption}"' for caption in report.examples)
    found = verdict(report)
    return [
        f'{report.attack}: {found.word}',
        f'  {report.kind}: {", ".join(targets)}{more}',
        f'  {report.captions} different caption{"s" * (report.captions != 1)}, such as {said}',
        *(f'  {reason}' for reason in found.reasons),
    ]


def _exhibits(data: PairsDataModule, name: str) -> list[PoisonedPair]:
    """A poison as it was before, with its own caption, as it is stored, and two of its views."""
    poison, row = data.manifest.poisons(name)[0], data.manifest.rows(name)[:1]
    stored, target = data.images(row), data.classes[poison.target]
    before = PoisonedPair(_plainly(data, [poison])[0], _own_captions(data, [poison])[0], target, 'before')
    poisoned = {f'target: {target}': stored[0]}
    for epoch in range(2):
        view = seen(data, stored, row, epoch)[0] + torch.tensor(MEAN).view(3, 1, 1)
        poisoned[f'its view in epoch {epoch + 1}'] = (255 * view).round().clamp(0, 255).byte().numpy()
    return [before, *(PoisonedPair(image, poison.caption, target, title) for title, image in poisoned.items())]


def _plain(value: Any) -> Any:
    """A value in the terms of JSON, which knows no infinity."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- parts of the check ---------------------------------------------------------------------------------------------


def _goal(attack: Attack, poison: Poison) -> tuple[int, int]:
    """What a poison works towards: a class for a trigger or for a class of images, an image for itself."""
    of_class = isinstance(attack, Backdoor) or (isinstance(attack, ClassSwap) and attack.level == 'class')
    return poison.target, -1 if of_class else poison.source


def _naming(poisons: Sequence[Poison], captions: Sequence[str], classes: Sequence[str]) -> int:
    """How many captions name the class that the poison of the same place aims at."""
    found = 0
    for target in {poison.target for poison in poisons}:
        own = [caption for poison, caption in zip(poisons, captions, strict=True) if poison.target == target]
        found += int(mentions(pa.array(own, pa.string()), classes[target]).sum())
    return found


def _own_captions(data: PairsDataModule, poisons: Sequence[Poison]) -> list[str]:
    """The captions that the images of poisons came with."""
    sources = {origin: [p.source for p in poisons if p.origin == origin] for origin in {p.origin for p in poisons}}
    captions = {origin: iter(_table(data, origin).captions(rows)) for origin, rows in sources.items()}
    return [next(captions[poison.origin]) for poison in poisons]


def _table(data: PairsDataModule, origin: Origin) -> Any:
    return data.source if origin == 'train' else data.heldout


def _rivals(data: PairsDataModule, attack: Attack, pool: AttackPool | None) -> int | None:
    """Clean pairs left that show the classes which are to be taken for others as a whole."""
    if not isinstance(attack, ClassSwap) or attack.level != 'class':
        return None
    pool = pool or pool_of(data)
    shown = [pool.rows_showing('train', pool.index(name)) for name in attack.swaps]
    return len(np.setdiff1d(np.concatenate(shown), list(pool.taken['train'])))


def _knowing(data: PairsDataModule, attack: Attack, pool: AttackPool | None) -> int | None:
    """Pairs with the word of an attack in a caption that is right; without a pool, clean captions are not searched."""
    if not isinstance(attack, TextTrigger):
        return None
    beside = [name for name, other in data.attacks.items() if isinstance(other, LoneWord) and other.word == attack.word]
    clean = 0 if pool is None else int(mentions(data.source.caption, attack.word).sum())
    return clean + sum(len(data.manifest.poisons(name)) for name in beside)


def _trace(data: PairsDataModule, name: str, pictures: int, views: int) -> Trace | None:
    """What the trigger of an attack does to some of its pictures; ``None`` if there is none, or it was there before."""
    attack, poisons, rows = data.attacks[name], data.manifest.poisons(name), data.manifest.rows(name)
    if attack.trigger is None:
        return None
    some = np.unique(np.linspace(0, len(rows) - 1, pictures).round().astype(np.int64))
    plain, triggered = _plainly(data, [poisons[i] for i in some.tolist()]), data.images(rows[some])
    if isinstance(attack, Published) and np.array_equal(plain, triggered):
        return None
    return trace_of(data, plain, triggered, rows[some], views)


def _plainly(data: PairsDataModule, poisons: Sequence[Poison]) -> np.ndarray:
    """Stored pictures of poisons without their trigger, uint8 (n, 3, h, w)."""
    _, pixels = data.clean_pool()
    return np.stack([picture(poison, pixels) for poison in poisons])


def _seen_by(model: Surrogate, data: PairsDataModule, name: str, pool: AttackPool) -> Seen:
    """What a model takes an attack's test pictures for, as they are and as the attack makes them."""
    asked: list[np.ndarray] = []
    _, stored = data.clean_pool()

    def pixels(origin: Origin, rows: np.ndarray) -> np.ndarray:
        asked.append(stored(origin, rows))
        return asked[-1]

    test = data.attacks[name].evaluation(name, data.manifest.poisons(name), pool, pixels)
    assert test.target is not None
    counted = test.label != test.target
    with_it = (model.embeddings(test.images) @ _classifier(model, data, test.templates).T).argmax(-1).cpu().numpy()
    as_is = model.answers(asked[-1])  # the pictures that the attack asked for and put its trigger on
    triggered, clean = (float((answers == test.target)[counted].mean()) for answers in (with_it, as_is))
    return Seen(triggered, clean, int(counted.sum()))


def _classifier(model: Surrogate, data: PairsDataModule, templates: Sequence[str]) -> torch.Tensor:
    """The classifier of an attack's own prompts: a trigger may be in them. (C, D)."""
    if tuple(templates) == data.templates:
        return model.classifier
    tokens = [[data.tokenizer(prompt) for prompt in prompts(name, templates)] for name in data.classes]
    return model.model.classifier(torch.from_numpy(np.array(tokens)))
