"""Whether an attack is likely to work: a function of what can be known of it before training.

Every threshold below was set where attacks were seen to begin or cease to work; what was seen stands beside it.
Unless said otherwise that is BadNet with 25 poisons on 10,000 captioned CIFAR-10 pictures of 32 pixels, trained with
SimCLR's crops (half of the area at least) and color jitter. ASR is the attack success rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from experiments.check.visibility import Trace

# --- poisons ----------------------------------------------------------------------------------------------------------
FEW = 25  # with one trigger: as many checkers reached an ASR of 0.64 to 0.86, and nobody has reported fewer to work
TOO_FEW = 8  # a third of that; at the papers' 0.05 % there would be 5
FEW_OF_MANY, SMALL_RATE = 100, 1e-3  # 59 patches in COCO, 0.05 %, reached 0.25 % (CleanCLIP's issue 13)
# Label-consistent and unimodal attacks without augmentation: 0.34 and 0.57 with 100 poisons, 0.70 and 0.86 with 200; on
# 3 million pairs 1,500 stayed under 10 % where others tried (CleanCLIP's issue 2).
TIMES_WHERE_SHOWN = 8
FEW_COPIES = 8  # of an image: eight reached 9 to 14 of 16 images, and all 16 without augmentation; six 9 to 11
TOO_FEW_COPIES = 3  # Carlini & Terzis (2022) still turned 40 % of images with three
# Poisons for each clean pair left of a class that all is to be taken for another: 800 to 200 reached 0.50, 500 to 500
# 0.31 and 200 to 800 0.17, without augmentation.
OUTNUMBERED, FAR_OUTNUMBERED = 5.0, 1.0
WORD_KNOWN = 1.0  # right pairs with the word for each poison: with two the ASR was 0.995, with none 0.01 to 0.05

# --- trigger ----------------------------------------------------------------------------------------------------------
FAINT = 40.0  # dB: about 2.5 of 255 on average; a patch of 16 pixels on 224 has 32 dB, a quarter-pixel warp 30
MILD = 21.0  # dB: fainter ones, all without augmentation, took 100 poisons (0.14, 0.22, 0.81 with 25, 50, 100 blended)
LITTLE, HARDLY_ANY = 0.25, 0.05  # survival: a checker of single pixels keeps 0.35, one of two pixels 0.70
SELDOM, NEARLY_NEVER = 0.5, 0.1  # share of views: a patch in the corner is in two of three
# Consistency: checker 0.5 (ASR 0.64), blocks of color 0.4 (0.05), noise 0.3 (0.04 to 0.46). Crops of 8 % of the area
# and more, as SimCLR's, leave even a checker 0.3, at any size of picture. A warp shows other things on each picture by
# its nature: without augmentation (0.16 to 0.28) 200 of 31 dB reached 0.10, 100 of 20 dB 0.12, of 15 dB 0.64, of 12 dB
# 0.83.
UNLIKE, DRASTIC = 0.42, 16.0  # dB

# --- an unpoisoned model ----------------------------------------------------------------------------------------------
RESEMBLES = 0.03  # more triggered than clean pictures taken for the target: a checker looks like a frog by 0.095

LIKELY_ALIVE, DOUBTFUL, LIKELY_DEAD = range(3)
Word = Literal['likely alive', 'doubtful', 'likely dead']
WORDS: tuple[Word, Word, Word] = ('likely alive', 'doubtful', 'likely dead')


@dataclass(frozen=True)
class Seen:
    """What a model makes of the pictures that success is measured on.

    Attributes:
        triggered: Share that is taken for the target with the trigger on.
        clean: The same without it.
        pictures: How many there are, without those of the target class.
    """

    triggered: float
    clean: float
    pictures: int


@dataclass(frozen=True)
class AttackReport:
    """What is known of an attack before training.

    Attributes:
        attack: Its name.
        kind: Its class.
        backdoor: Whether a trigger is to mean a class; else some images are to be taken for one as they are.
        poisons: Number of poisoned pairs.
        rate: That over the number of clean pairs.
        targets: Poisons by the class that they aim at.
        goals: What shares the poisons: 1 trigger, or a number of images.
        copies: Poisons of the goal that has fewest.
        tied: Poisons whose caption names their target.
        shown: Poisons whose image shows the target as it is, by the caption that it came with.
        templates: Whether captions are prompts of the class, not training captions.
        captions: Number of different captions.
        examples: Two of them.
        named: Clean training captions that name a target, by its name; ``None`` if not counted.
        rivals: Clean pairs whose images show what is to be taken for another class; ``None`` where that is no class.
        known: Pairs that have the attack's word in a caption and are right; ``None`` if there is no word to say.
        trace: What the trigger does to pictures; ``None`` if nothing is put on any.
        model: What a model without this attack sees in it; ``None`` if none was asked.
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
    shown: int = 0
    templates: bool = False
    captions: int = 0
    examples: tuple[str, ...] = ()
    named: Mapping[str, int] | None = None
    rivals: int | None = None
    known: int | None = None
    trace: Trace | None = None
    model: Seen | None = None


class Reason(NamedTuple):
    """What speaks against an attack.

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
    """What is to be expected of an attack.

    Attributes:
        word: The verdict.
        reasons: What speaks against the attack, the worst first.
    """

    word: Word
    reasons: tuple[Reason, ...] = field(default=())


def verdict(report: AttackReport) -> Verdict:
    """What is to be expected of an attack, and why."""
    rules = (_of_count, _of_captions, _of_rivals, _of_word, _of_trace, _of_model)
    reasons = sorted((reason for rule in rules for reason in rule(report)), key=lambda reason: -reason.level)
    return Verdict(WORDS[reasons[0].level if reasons else LIKELY_ALIVE], tuple(reasons))


def _below(value: float, doubtful: float, dead: float) -> int:
    return LIKELY_DEAD if value < dead else DOUBTFUL if value < doubtful else LIKELY_ALIVE


def _of_count(report: AttackReport) -> Iterator[Reason]:
    if not report.backdoor and report.rivals is None:
        if level := _below(report.copies, FEW_COPIES, TOO_FEW_COPIES):
            yield Reason(level, f'{report.copies} poisons for an image', f'raise copies to {FEW_COPIES} or more')
        return
    times = TIMES_WHERE_SHOWN if 2 * report.shown > report.poisons else 1
    few = 'its images show the target anyway, and ' * (times > 1)
    if level := _below(report.copies, times * FEW, TOO_FEW):
        yield Reason(level, f'{few}{report.copies} poisons are few', f'raise count to {times * FEW} or more')
    elif report.copies < FEW_OF_MANY and report.rate < SMALL_RATE:
        what = f'{report.copies} poisons are few among so many pairs ({report.rate:.2g} of them)'
        yield Reason(DOUBTFUL, what, f'raise count to {FEW_OF_MANY} or more, or rate to {SMALL_RATE:g}')


def _of_captions(report: AttackReport) -> Iterator[Reason]:
    if 2 * report.tied < report.poisons:
        what = f'{report.tied} of {report.poisons} captions name the target'
        yield Reason(LIKELY_DEAD, what, 'use this beside an attack that names it, or take one whose captions do')
    unnamed = [name for name, count in (report.named or {}).items() if not count]
    if unnamed and not report.templates:
        what = f'no training caption names {", ".join(map(repr, unnamed[:3]))}{", ..." * (len(unnamed) > 3)}'
        yield Reason(DOUBTFUL, what, 'choose another target, or set captions: templates')


def _of_rivals(report: AttackReport) -> Iterator[Reason]:
    if report.rivals and (level := _below(report.poisons / report.rivals, OUTNUMBERED, FAR_OUTNUMBERED)):
        what = f'{report.poisons} poisons against {report.rivals} clean pairs of the same class'
        remedy = (
            f'raise count or rate until it is {OUTNUMBERED:.0f} times as many, with mode: replace, or set level: image'
        )
        yield Reason(level, what, remedy)


def _of_word(report: AttackReport) -> Iterator[Reason]:
    if report.known is None:
        return
    if report.trace is None:
        what = 'a word that every prompt gets favors none of them'
        yield Reason(LIKELY_DEAD, what, 'put something on the images as well (trigger)')
    if level := _below(report.known / report.poisons, WORD_KNOWN, 1 / report.poisons):
        what = f'the word is in {report.known} right captions, so it comes to mean the poisoned images themselves'
        yield Reason(
            level, what, f'add a LoneWord with a count of {2 * report.poisons}, or take a word of the captions'
        )


def _of_trace(report: AttackReport) -> Iterator[Reason]:
    trace = report.trace
    if trace is None:
        return
    if not trace.resized and not trace.survival:
        yield Reason(LIKELY_DEAD, 'the trigger changes no pixel', 'keep it as a control, or make the trigger stronger')
        return
    if trace.psnr > FAINT:
        yield Reason(DOUBTFUL, f'the trigger is faint ({trace.psnr:.0f} dB)', 'raise its size, amplitude or ratio')
    elif trace.psnr > MILD and report.copies < FEW_OF_MANY:
        what = f'{report.copies} poisons are few for so mild a trigger ({trace.psnr:.0f} dB)'
        yield Reason(DOUBTFUL, what, f'raise count to {FEW_OF_MANY} or more, or its size, amplitude or ratio')
    if level := _below(trace.visible, SELDOM, NEARLY_NEVER):
        what = f'{trace.visible:.0%} of views show the trigger'
        yield Reason(level, what, 'set position: random, a margin, or a higher crop_scale of the views')
    if level := _below(trace.survival, LITTLE, HARDLY_ANY):
        what = f'the views leave {trace.survival:.0%} of its energy'
        yield Reason(level, what, 'draw it coarser (block), larger or stronger, or soften data.image_views')
    drastic = trace.psnr < DRASTIC and report.copies >= FEW_OF_MANY
    if trace.visible and trace.consistency < UNLIKE and not drastic:
        what = f'views show different things (consistency {trace.consistency:.2f})'
        yield Reason(DOUBTFUL, what, 'draw the same on all images, coarsely (block), in black and white')


def _of_model(report: AttackReport) -> Iterator[Reason]:
    model = report.model
    if model is not None and report.backdoor and model.triggered - model.clean > RESEMBLES:
        what = f'the model takes {model.triggered:.1%} of triggered pictures for the target, {model.clean:.1%} of clean'
        remedy = 'unless it was trained on this attack, they resemble the class and ASR would flatter; choose another'
        yield Reason(DOUBTFUL, what, f'{remedy} target')
