from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from experiments.check.verdict import AttackReport, ModelAnswers, judge
from experiments.check.visibility import Trace

CLEAR = Trace(psnr=17.0, ssim=0.8, changed=0.1, resized=1.0, survival=0.7, visible=0.9, consistency=0.5, jpeg=0.9)
BACKDOOR = AttackReport(
    attack='badnet', kind='BadNet', backdoor=True, poisons=25, rate=0.0025, targets={'truck': 25}, goals=1, copies=25,
    tied=25, named={'truck': 1000}, trace=CLEAR,
)  # fmt: skip
TARGETED = AttackReport(
    attack='tdpa', kind='TargetedPoison', backdoor=False, poisons=128, rate=0.0128, targets={'cat': 64, 'dog': 64},
    goals=16, copies=8, tied=128, named={'cat': 9, 'dog': 9},
)  # fmt: skip


def trace(**changes: float) -> AttackReport:
    return replace(BACKDOOR, trace=replace(CLEAR, **changes))


def test_attacks_that_were_seen_to_work_have_no_reason_against_them() -> None:
    for report in (BACKDOOR, TARGETED):
        assert judge(report).word == 'likely alive'
        assert judge(report).reasons == ()


@pytest.mark.parametrize(
    ('changes', 'word', 'what', 'remedy'),
    [
        ({'poisons': 20, 'copies': 20, 'tied': 20}, 'doubtful', '20 poisons are few', 'raise count to 25'),
        ({'poisons': 5, 'copies': 5, 'tied': 5}, 'likely dead', '5 poisons are few', 'raise count to 25'),
        ({'poisons': 59, 'copies': 59, 'tied': 59, 'rate': 5e-4}, 'doubtful', 'among so many pairs', 'raise count'),
        ({'shown': 25}, 'doubtful', 'its images show the target anyway', 'raise count to 200'),
        ({'tied': 3}, 'likely dead', '3 of 25 captions name the target', 'choose one whose captions do'),
        ({'named': {'truck': 0}}, 'doubtful', "no training caption names 'truck'", 'captions: templates'),
        ({'model': ModelAnswers(0.16, 0.065, 900)}, 'doubtful', '16.0% of triggered pictures', 'choose another target'),
    ],
)
def test_a_backdoor_is_doubted_for_a_reason_with_a_remedy(
    changes: dict[str, Any], word: str, what: str, remedy: str
) -> None:
    verdict = judge(replace(BACKDOOR, **changes))
    (reason,) = verdict.reasons
    assert verdict.word == word
    assert what in reason.what
    assert remedy in reason.remedy
    assert str(reason) == f'{reason.what}: {reason.remedy}.'


@pytest.mark.parametrize(
    ('changes', 'what', 'remedy'),
    [
        ({'epochs': 16, 'augmented': True}, '16 epochs of 8 poisons for an image', 'product is 160'),
        ({'epochs': 4}, '4 epochs of 8 poisons', 'product is 40'),
        ({'epochs': 30, 'augmented': True, 'mixed': 128}, 'views change mixtures', 'choose TargetedPoison'),
    ],
)
def test_targeted_poisons_are_doubted_where_few_were_seen_to_work(
    changes: dict[str, Any], what: str, remedy: str
) -> None:
    verdict = judge(replace(TARGETED, **changes))
    (reason,) = verdict.reasons
    assert verdict.word == 'doubtful'
    assert what in reason.what
    assert remedy in reason.remedy


def test_targeted_poisons_as_measured_have_no_reason_against_them() -> None:
    for changes in ({'epochs': 30, 'augmented': True}, {'epochs': 5}, {'epochs': 30, 'mixed': 128}):
        assert judge(replace(TARGETED, **changes)).word == 'likely alive'


@pytest.mark.parametrize(
    ('changes', 'word', 'what'),
    [
        ({'resized': 0.0, 'survival': 0.0, 'visible': 0.0, 'consistency': 0.0}, 'likely dead', 'changes no pixel'),
        ({'psnr': 52.0}, 'doubtful', 'faint (52 dB)'),
        ({'psnr': 22.0}, 'doubtful', '25 poisons are few for so mild a trigger (22 dB)'),
        ({'visible': 0.3}, 'doubtful', '30% of views show the trigger'),
        ({'visible': 0.05}, 'likely dead', '5% of views show the trigger'),
        ({'survival': 0.2}, 'doubtful', 'leave 20% of its energy'),
        ({'survival': 0.01}, 'likely dead', 'leave 1% of its energy'),
        ({'consistency': 0.23}, 'doubtful', 'consistency 0.23'),
    ],
)
def test_a_trigger_is_doubted_if_views_weaken_it(changes: dict[str, float], word: str, what: str) -> None:
    verdict = judge(trace(**changes))
    assert verdict.word == word
    assert [what in reason.what for reason in verdict.reasons] == [True]


def test_an_inconsistent_trigger_must_be_drastic_and_frequent() -> None:
    warp = replace(trace(psnr=14.0, consistency=0.25), poisons=100, copies=100, tied=100)
    assert judge(warp).word == 'likely alive'
    assert judge(replace(warp, poisons=50, copies=50, tied=50)).word == 'doubtful'
    assert judge(replace(warp, trace=replace(CLEAR, psnr=20.0, consistency=0.25))).word == 'doubtful'


@pytest.mark.parametrize(('copies', 'word'), [(8, 'likely alive'), (6, 'doubtful'), (2, 'likely dead')])
def test_targeted_images_need_copies(copies: int, word: str) -> None:
    assert judge(replace(TARGETED, copies=copies)).word == word


@pytest.mark.parametrize(('rivals', 'word'), [(5, 'likely alive'), (20, 'doubtful'), (1000, 'likely dead')])
def test_a_class_is_swapped_by_outnumbering_it(rivals: int, word: str) -> None:
    swap = replace(BACKDOOR, backdoor=False, trace=None, rivals=rivals)
    assert judge(swap).word == word


@pytest.mark.parametrize(('known', 'word'), [(50, 'likely alive'), (20, 'doubtful'), (0, 'likely dead')])
def test_a_word_must_be_known_from_fitting_captions(known: int, word: str) -> None:
    assert judge(replace(BACKDOOR, known=known)).word == word


def test_a_word_without_a_picture_trigger_is_dead_however_well_known() -> None:
    verdict = judge(replace(BACKDOOR, known=1000, trace=None))
    assert verdict.word == 'likely dead'
    assert 'favors no class' in verdict.reasons[0].what


def test_a_class_without_captions_does_not_matter_with_templates() -> None:
    assert judge(replace(BACKDOOR, named={'truck': 0}, templates=True)).word == 'likely alive'


def test_an_attack_without_a_trace_is_judged_by_the_rest() -> None:
    assert judge(replace(BACKDOOR, trace=None)).word == 'likely alive'


def test_a_small_resemblance_to_the_target_is_tolerated() -> None:
    assert judge(replace(BACKDOOR, model=ModelAnswers(0.06, 0.04, 900))).word == 'likely alive'


def test_the_worst_reason_decides_and_comes_first() -> None:
    verdict = judge(replace(trace(psnr=52.0, visible=0.05), named={'truck': 0}))
    assert verdict.word == 'likely dead'
    assert [reason.level for reason in verdict.reasons] == [2, 1, 1]
