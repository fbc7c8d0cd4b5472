"""Whether an attack is likely to work: a function of what can be known about it before training.

The thresholds were set where attacks were seen to start or stop working; the evidence is in the comments. Below
``MIN_...`` an attack is doubtful, below ``DEAD_...`` it is likely dead. Unless stated otherwise, the evidence is from
BadNet with 25 poisons on 10,000 captioned CIFAR-10 pictures of 32 pixels, trained with SimCLR's crops (at least half
of the area) and color jitter. ASR is the attack success rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from experiments.check.visibility import Trace

# --- poisons ----------------------------------------------------------------------------------------------------------
MIN_POISONS = 25  # of one trigger: 25 checkers reached an ASR of 0.64 to 0.86; nobody has reported success with fewer
DEAD_POISONS = 8  # a third of that; at the papers' 0.05 % there would be 5
# Where the rate is below MIN_EASY_RATE or the trigger mild: 59 patches in COCO, 0.05 %, reached 0.25 % (CleanCLIP's
# issue 13).
MIN_POISONS_HARD_CASE, MIN_EASY_RATE = 100, 1e-3
# If images show the target anyway: label-consistent and unimodal attacks without augmentation reached 0.34 and 0.57
# with 100 poisons, 0.70 and 0.86 with 200. On 3 million pairs others stayed under 10 % with 1,500 (CleanCLIP, issue 2).
POISONS_FACTOR_IF_SHOWN = 8
MIN_COPIES_PER_IMAGE = 8  # 8 copies reached 9 to 14 of 16 images, and all 16 without augmentation; 6 copies 9 to 11
DEAD_COPIES_PER_IMAGE = 3  # Carlini & Terzis (2022) still turned 40 % of images with three
# Poisons for an image times epochs. With augmentation, 8 copies turned 0.06 to 0.19 of images in 5 epochs, 0.25 to 0.31
# in 15, 0.44 to 0.69 in 20, and on another set 2 of 15 in 16. Without, 0.44 to 0.62 in 5 epochs.
MIN_LOOKS_WITH_VIEWS, MIN_LOOKS = 160, 40
# A rival is a clean pair left of a class that is to be taken for another as a whole: 800 poisons against 200 rivals
# reached 0.50, 500 against 500 0.31, and 200 against 800 0.17, without augmentation.
MIN_POISONS_PER_RIVAL, DEAD_POISONS_PER_RIVAL = 5.0, 1.0
MIN_KNOWN_PAIRS_PER_POISON = 1.0  # fitting pairs with the word: two per poison gave an ASR of 0.995, none 0.01 to 0.05

# --- trigger ----------------------------------------------------------------------------------------------------------
# A trigger is faint from 40 dB on, about 2.5 of 255 on average; a patch of 16 pixels on 224 has 32 dB, a quarter-pixel
# warp 30. It is mild from 21 dB on: without augmentation such triggers took 100 poisons (blended ones reached 0.14,
# 0.22 and 0.81 with 25, 50 and 100).
MIN_FAINT_PSNR_DB, MIN_MILD_PSNR_DB = 40.0, 21.0
# A checker of single pixels keeps 0.35 of its energy in views, one of two pixels 0.70.
MIN_SURVIVING_ENERGY_SHARE, DEAD_SURVIVING_ENERGY_SHARE = 0.25, 0.05
MIN_VISIBLE_SHARE, DEAD_VISIBLE_SHARE = 0.5, 0.1  # of views: two of three show a patch in the corner
# Consistency: checker 0.5 (ASR 0.64), blocks of color 0.4 (0.05), noise 0.3 (0.04 to 0.46). Crops down to 8 % of the
# area, as SimCLR's, leave even a checker 0.3, at any picture size. A warp differs from picture to picture by nature:
# without augmentation (consistency 0.16 to 0.28), 200 warps of 31 dB reached 0.10, and 100 of 20 dB 0.12, of 15 dB
# 0.64, of 12 dB 0.83. A drastic one, up to 16 dB, may therefore be inconsistent.
MIN_CONSISTENCY_COSINE, MAX_DRASTIC_PSNR_DB = 0.42, 16.0

# --- an unpoisoned model ----------------------------------------------------------------------------------------------
# Share of triggered minus share of clean pictures taken for the target: a checker looks like a frog by 0.095.
MAX_RESEMBLANCE_SHARE = 0.03

LIKELY_ALIVE, DOUBTFUL, LIKELY_DEAD = range(3)
Word = Literal['likely alive', 'doubtful', 'likely dead']
WORDS: tuple[Word, Word, Word] = ('likely alive', 'doubtful', 'likely dead')


@dataclass(frozen=True)
class ModelAnswers:
    """What a model takes the pictures for that success is measured on.

    Attributes:
        triggered: Share that it takes for the target with the trigger, in [0, 1].
        clean: Share that it takes for the target without the trigger, in [0, 1].
        pictures: Number of pictures, without those of the target class.
    """

    triggered: float
    clean: float
    pictures: int


@dataclass(frozen=True)
class AttackReport:
    """What is known about an attack before training.

    Attributes:
        attack: Name of the attack.
        kind: Name of its class.
        backdoor: Whether a trigger should mean a class. Otherwise images should be taken for a class as they are.
        poisons: Number of poisoned pairs.
        rate: Poisoned pairs over clean pairs.
        targets: Number of poisons by the class that they aim at.
        goals: Number of distinct goals (:class:`datamodules.attacks.Goal`): 1 for a trigger, else one for each image.
        copies: Poisons of the goal that has the fewest.
        tied: Poisons whose caption names their target.
        epochs: Epochs of the run; ``None`` if not known.
        augmented: Whether views of a picture differ from epoch to epoch.
        mixed: Poisons whose image is a mixture of two.
        shown: Poisons whose image shows the target anyway, by its own caption.
        templates: Whether captions are prompts of the class rather than training captions.
        captions: Number of different captions.
        examples: Two of the captions.
        named: Number of clean training captions that name each target, by class; ``None`` if not counted.
        rivals: Clean pairs that show a class which is to be taken for another; ``None`` if no class is swapped.
        known: Pairs that have the trigger word in a fitting caption; ``None`` if no word is part of the trigger.
        trace: What the trigger does to pictures; ``None`` if it does not act on pictures.
        model: Answers of a model that has not seen this attack; ``None`` if no model was asked.
    """

    attack: str
    kind: str
    backdoor: bool
    poisons: int
    rate: float
    targets: dict[str, int]
    goals: int
    copies: int
    tied: int
    epochs: int | None = None
    augmented: bool = False
    mixed: int = 0
    shown: int = 0
    templates: bool = False
    captions: int = 0
    examples: tuple[str, ...] = ()
    named: Mapping[str, int] | None = None
    rivals: int | None = None
    known: int | None = None
    trace: Trace | None = None
    model: ModelAnswers | None = None


class Reason(NamedTuple):
    """A reason to expect that an attack fails.

    Attributes:
        level: ``DOUBTFUL`` or ``LIKELY_DEAD``.
        what: What is wrong, in a few words.
        remedy: What to do about it.
    """

    level: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.what}: {self.remedy}.'


@dataclass(frozen=True)
class Verdict:
    """Whether an attack is expected to work.

    Attributes:
        word: The verdict.
        reasons: Reasons against the attack, the worst first.
    """

    word: Word
    reasons: tuple[Reason, ...] = field(default=())


def judge(report: AttackReport) -> Verdict:
    """Predicts whether an attack will work, and why it may not.

    Example:
        >>> report = AttackReport(
        ...     'badnet', 'BadNet', backdoor=True, poisons=5, rate=0.01, targets={'boat': 5}, goals=1, copies=5, tied=5
        ... )
        >>> judge(report).word
        'likely dead'
        >>> print(judge(report).reasons[0])
        5 poisons are few: raise count to 25 or more.
    """
    rules = (
        _judge_count,
        _judge_looks,
        _judge_mixtures,
        _judge_captions,
        _judge_rivals,
        _judge_word,
        _judge_trace,
        _judge_model,
    )
    reasons = sorted((reason for rule in rules for reason in rule(report)), key=lambda reason: -reason.level)
    return Verdict(WORDS[reasons[0].level if reasons else LIKELY_ALIVE], tuple(reasons))


def _grade(value: float, minimum: float, dead: float) -> int:
    return LIKELY_DEAD if value < dead else DOUBTFUL if value < minimum else LIKELY_ALIVE


def _judge_count(report: AttackReport) -> Iterator[Reason]:
    if not report.backdoor and report.rivals is None:
        if level := _grade(report.copies, MIN_COPIES_PER_IMAGE, DEAD_COPIES_PER_IMAGE):
            remedy = f'raise copies to {MIN_COPIES_PER_IMAGE} or more'
            yield Reason(level, f'{report.copies} poisons for an image', remedy)
        return
    times = POISONS_FACTOR_IF_SHOWN if 2 * report.shown > report.poisons else 1
    few = 'its images show the target anyway, and ' * (times > 1)
    if level := _grade(report.copies, times * MIN_POISONS, DEAD_POISONS):
        yield Reason(level, f'{few}{report.copies} poisons are few', f'raise count to {times * MIN_POISONS} or more')
    elif report.copies < MIN_POISONS_HARD_CASE and report.rate < MIN_EASY_RATE:
        what = f'{report.copies} poisons are few among so many pairs ({report.rate:.2g} of them)'
        yield Reason(DOUBTFUL, what, f'raise count to {MIN_POISONS_HARD_CASE} or more, or rate to {MIN_EASY_RATE:g}')


def _judge_looks(report: AttackReport) -> Iterator[Reason]:
    if report.backdoor or report.rivals is not None or report.epochs is None:
        return
    minimum = MIN_LOOKS_WITH_VIEWS if report.augmented else MIN_LOOKS
    if report.copies * report.epochs < minimum:
        what = f'{report.epochs} epochs of {report.copies} poisons for an image teach little'
        yield Reason(DOUBTFUL, what, f'raise copies or trainer.max_epochs until their product is {minimum} or more')


def _judge_mixtures(report: AttackReport) -> Iterator[Reason]:
    if report.augmented and 2 * report.mixed > report.poisons:
        what = 'views change mixtures of images too much'  # 0 of 16 images, and all 16 without augmentation
        yield Reason(DOUBTFUL, what, 'choose TargetedPoison, which shows the image itself')


def _judge_captions(report: AttackReport) -> Iterator[Reason]:
    if 2 * report.tied < report.poisons:
        what = f'{report.tied} of {report.poisons} captions name the target'
        remedy = 'use this beside an attack whose captions name it, or choose one whose captions do'
        yield Reason(LIKELY_DEAD, what, remedy)
    unnamed = [name for name, count in (report.named or {}).items() if not count]
    if unnamed and not report.templates:
        what = f'no training caption names {", ".join(map(repr, unnamed[:3]))}{", ..." * (len(unnamed) > 3)}'
        yield Reason(DOUBTFUL, what, 'choose another target, or set captions: templates')


def _judge_rivals(report: AttackReport) -> Iterator[Reason]:
    if not report.rivals:
        return
    if level := _grade(report.poisons / report.rivals, MIN_POISONS_PER_RIVAL, DEAD_POISONS_PER_RIVAL):
        what = f'{report.poisons} poisons against {report.rivals} clean pairs of the same class'
        remedy = (
            f'raise count or rate until there are {MIN_POISONS_PER_RIVAL:.0f} times as many poisons, with '
            f'mode: replace, or set level: image'
        )
        yield Reason(level, what, remedy)


def _judge_word(report: AttackReport) -> Iterator[Reason]:
    if report.known is None:
        return
    if report.trace is None:
        what = 'a word that is in every prompt favors no class'
        yield Reason(LIKELY_DEAD, what, 'put something on the images as well (trigger)')
    if level := _grade(report.known / report.poisons, MIN_KNOWN_PAIRS_PER_POISON, 1 / report.poisons):
        what = f'the word is in {report.known} fitting captions, so it comes to mean the poisoned images themselves'
        remedy = f'add a LoneWord with a count of {2 * report.poisons}, or choose a word that captions use'
        yield Reason(level, what, remedy)


def _judge_trace(report: AttackReport) -> Iterator[Reason]:
    trace = report.trace
    if trace is None:
        return
    if not trace.resized and not trace.survival:
        yield Reason(LIKELY_DEAD, 'the trigger changes no pixel', 'keep it as a control, or make the trigger stronger')
        return
    yield from _judge_strength(trace, report.copies)
    if level := _grade(trace.visible, MIN_VISIBLE_SHARE, DEAD_VISIBLE_SHARE):
        what = f'{trace.visible:.0%} of views show the trigger'
        yield Reason(level, what, 'set position: random, a margin, or a higher crop_scale of the views')
    if level := _grade(trace.survival, MIN_SURVIVING_ENERGY_SHARE, DEAD_SURVIVING_ENERGY_SHARE):
        what = f'the views leave {trace.survival:.0%} of its energy'
        yield Reason(level, what, 'draw it coarser (block), larger or stronger, or soften data.image_views')
    drastic = trace.psnr < MAX_DRASTIC_PSNR_DB and report.copies >= MIN_POISONS_HARD_CASE
    if trace.visible and trace.consistency < MIN_CONSISTENCY_COSINE and not drastic:
        what = f'views show different things (consistency {trace.consistency:.2f})'
        yield Reason(DOUBTFUL, what, 'draw the same on all images, coarsely (block), in black and white')


def _judge_strength(trace: Trace, copies: int) -> Iterator[Reason]:
    if trace.psnr > MIN_FAINT_PSNR_DB:
        yield Reason(DOUBTFUL, f'the trigger is faint ({trace.psnr:.0f} dB)', 'raise its size, amplitude or ratio')
    elif trace.psnr > MIN_MILD_PSNR_DB and copies < MIN_POISONS_HARD_CASE:
        what = f'{copies} poisons are few for so mild a trigger ({trace.psnr:.0f} dB)'
        yield Reason(DOUBTFUL, what, f'raise count to {MIN_POISONS_HARD_CASE} or more, or its size, amplitude or ratio')


def _judge_model(report: AttackReport) -> Iterator[Reason]:
    model = report.model
    if model is not None and report.backdoor and model.triggered - model.clean > MAX_RESEMBLANCE_SHARE:
        what = f'the model takes {model.triggered:.1%} of triggered pictures for the target, {model.clean:.1%} of clean'
        remedy = 'unless it was trained on this attack, they resemble the class and inflate the ASR; choose another'
        yield Reason(DOUBTFUL, what, f'{remedy} target')
