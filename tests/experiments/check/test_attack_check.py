from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import attacks
from datamodules.attacks import (
    Attack,
    AttackPool,
    BadNet,
    Blended,
    ClassSwap,
    InterpolationPoison,
    LabelConsistent,
    LoneWord,
    NoOpTrigger,
    Patch,
    Pixels,
    Poison,
    Poisoning,
    TargetedPoison,
    TextTrigger,
    WaNetNoise,
)
from datamodules.evaluation.sets import EvaluationSet
from datamodules.pairs import PairsDataModule
from datamodules.pictures.augment import SimCLRViews
from datamodules.toy_pairs import ToyPairs
from experiments import cli
from experiments.check import attack_check
from experiments.check.attack_check import (
    PICTURES,
    VIEWS,
    check,
    draw,
    format_json,
    format_table,
    print_report,
    rebuild_pool,
    summarize,
)
from experiments.check.verdict import AttackReport, judge
from experiments.plan import TrainingPlan, advice
from experiments.surrogates.surrogate import Surrogate
from lightning_modules.clip import CLIP
from tests.experiments.conftest import EXPERIMENTS, SMALL
from tests.helpers.tiny import trainer

STAR = 'striped star'
SetUp = Callable[..., PairsDataModule]
TOY = str(EXPERIMENTS / 'safeclip_toy.yaml')


@pytest.fixture(scope='module')
def set_up(tmp_path_factory: pytest.TempPathFactory) -> SetUp:
    """Sets up toy pairs with the given attacks."""
    folder = tmp_path_factory.mktemp('cache')

    def set_up(**attacks: Attack) -> PairsDataModule:
        sizes: dict[str, Any] = {'rows': 96, 'heldout_rows': 72, 'image_size': 32, 'context_length': 20}
        data = ToyPairs(batch_size=24, attacks=dict(attacks), cache_dir=str(folder), **sizes)
        data.prepare_data()
        data.setup('validate')
        return data

    return set_up


def report_of(set_up: SetUp, attack: Attack) -> AttackReport:
    data = set_up(it=attack)
    return check(data, 'it', rebuild_pool(data))


class TestReport:
    def test_counts_poisons_captions_and_targets(self, set_up: SetUp) -> None:
        report = report_of(set_up, BadNet(STAR, size=8, count=12))
        assert (report.kind, report.poisons, report.targets) == ('BadNet', 12, {STAR: 12})
        assert (report.goals, report.copies, report.tied, report.shown) == (1, 12, 12, 0)
        assert report.rate == pytest.approx(12 / 96)
        assert report.named == {STAR: 4}
        assert report.captions == 4  # each three times
        assert len(set(report.examples)) == 2
        assert all(STAR in caption for caption in report.examples)

    def test_counts_the_copies_of_the_targeted_image_with_the_fewest(self, set_up: SetUp) -> None:
        report = report_of(set_up, TargetedPoison(targets=3, count=8, captions='templates'))
        assert (report.goals, report.copies, report.poisons) == (3, 2, 8)
        assert report.templates
        assert report.trace is None

    def test_counts_the_clean_pairs_that_oppose_a_swap(self, set_up: SetUp) -> None:
        swaps = ClassSwap({STAR: 'dotted star'}, count=3, source='train', mode='replace', captions='templates')
        report = report_of(set_up, swaps)
        assert (report.backdoor, report.goals, report.copies) == (False, 1, 3)
        assert report.rivals == 1  # of four

    def test_counts_images_that_show_the_target(self, set_up: SetUp) -> None:
        report = report_of(set_up, LabelConsistent(STAR, size=8, count=3))
        assert report.shown == report.tied == 3

    def test_recognizes_a_trigger_that_is_not_tied_to_the_target(self, set_up: SetUp) -> None:
        report = report_of(set_up, WaNetNoise(STAR, count=10))
        assert report.tied == 0
        assert judge(report).word == 'likely dead'

    def test_recognizes_that_the_control_changes_nothing(self, set_up: SetUp) -> None:
        report = report_of(set_up, NoOpTrigger(STAR, count=30))
        assert report.trace is not None
        assert (report.trace.survival, report.trace.resized, report.trace.jpeg) == (0, 0, 0)
        assert summarize(report) == 'likely dead: the trigger changes no pixel'

    def test_looks_at_the_pixels_that_training_gets(self, set_up: SetUp) -> None:
        report = report_of(set_up, Blended(STAR, ratio=0.5, block=4, count=30))
        assert report.trace is not None
        assert (report.trace.survival, report.trace.visible) == pytest.approx((1, 1))  # these data have no views
        assert 8 < report.trace.psnr < 20

    def test_a_word_leaves_no_trace_on_pictures(self, set_up: SetUp) -> None:
        report = report_of(set_up, TextTrigger(STAR, count=30))
        assert report.trace is None
        assert report.tied == 30

    def test_counts_fitting_captions_with_the_word(self, set_up: SetUp) -> None:
        data = set_up(
            it=TextTrigger(STAR, count=12), lone=LoneWord(STAR, count=9), other=LoneWord(STAR, 'look', count=7)
        )
        assert [check(data, name, rebuild_pool(data)).known for name in ('it', 'lone')] == [9, None]
        named = set_up(it=TextTrigger(STAR, word='star', count=3))
        own = named.source.captions(range(len(named.source)))
        assert check(named, 'it', rebuild_pool(named)).known == sum('star' in caption for caption in own) > 0

    @pytest.mark.parametrize(('size', 'says'), [(16, True), (4, False)])
    def test_says_when_a_patch_hides_much_of_a_picture(self, set_up: SetUp, size: int, says: bool) -> None:
        table = format_table([report_of(set_up, BadNet(STAR, size=size, count=3))])
        assert ('it covers 25% of a picture' in table) == says

    def test_counts_mixtures_and_sees_whether_views_differ(self, set_up: SetUp) -> None:
        data = set_up(it=InterpolationPoison(targets=2, copies=3))
        report = check(data, 'it', rebuild_pool(data), epochs=9)
        assert (report.mixed, report.augmented, report.epochs) == (6, False, 9)
        data.view_makers = (SimCLRViews(),)
        assert check(data, 'it', rebuild_pool(data)).augmented

    def test_is_reproducible_and_leaves_the_global_generator_alone(self, set_up: SetUp) -> None:
        data = set_up(it=BadNet(STAR, size=8, count=12, position='random'))
        before = torch.random.get_rng_state()
        assert check(data, 'it', rebuild_pool(data)) == check(data, 'it', rebuild_pool(data))
        assert torch.equal(before, torch.random.get_rng_state())


class OneShown(Attack):
    """A new attack that keeps the default answers of its base class."""

    def choose(self, pool: AttackPool, amount: int) -> list[Poison]:
        target = pool.index(STAR)
        source = int(pool.allowed(self.source, target)[0])
        captions = self.write_captions(pool, target, amount)
        return [Poison(source, self.source, target, caption) for caption in captions]

    def evaluation(self, name: str, poisons: Sequence[Poison], pool: AttackPool, pixels: Pixels) -> EvaluationSet:
        rows = np.array([poisons[0].source])
        images, target = pixels(self.source, rows), np.array([poisons[0].target])
        return EvaluationSet(name, images, pool.labels(self.source, rows), target, pool.classes, pool.templates)


class ManyPatched(OneShown):
    """The same attack with a trigger."""

    trigger = Patch(8)


class TestNewAttack:
    def test_without_a_trigger_is_judged_by_the_copies_of_its_images(self, set_up: SetUp) -> None:
        report = report_of(set_up, OneShown(count=5))
        assert (report.kind, report.backdoor, report.goals, report.copies) == ('OneShown', False, 1, 5)
        assert summarize(report) == 'doubtful: 5 poisons for an image'

    def test_with_a_trigger_is_judged_as_a_backdoor(self, set_up: SetUp) -> None:
        report = report_of(set_up, ManyPatched(count=5))
        assert (report.kind, report.backdoor, report.goals) == ('ManyPatched', True, 1)
        assert report.trace is not None
        assert summarize(report) == 'likely dead: 5 poisons are few'


def test_the_check_names_no_class_of_attack() -> None:
    source = Path(attack_check.__file__).read_text()
    kinds = [kind for kind in vars(attacks).values() if isinstance(kind, type) and issubclass(kind, Poisoning)]
    assert len(kinds) > 15
    assert not [kind.__name__ for kind in kinds if re.search(rf'\b{kind.__name__}\b', source)]


class TestModel:
    def test_is_asked_about_the_same_pictures_with_and_without_the_trigger(self, set_up: SetUp) -> None:
        data = set_up(it=NoOpTrigger(STAR, count=5), word=TextTrigger(STAR, count=5, seed=1))
        model = Surrogate(CLIP(architecture='tiny_toy.json').eval().requires_grad_(False), data)
        nothing, word = (check(data, name, rebuild_pool(data), model).model for name in ('it', 'word'))
        assert nothing is not None and word is not None
        assert nothing.triggered == nothing.clean
        assert nothing.pictures == word.pictures == 72 - 3 - 10  # neither of the target nor poison
        assert nothing.clean == word.clean

    def test_sees_a_trigger_that_looks_like_the_target(self, set_up: SetUp) -> None:
        torch.manual_seed(0)
        data = set_up(it=Blended(STAR, ratio=1.0, count=5))
        model = Surrogate(CLIP(architecture='tiny_toy.json').eval().requires_grad_(False), data)
        clean, noise = (model.embed_pictures(np.array(test_set.images)).mean(0) for test_set in data.evaluation_sets)
        towards = torch.stack([noise if name == STAR else clean for name in data.classes])
        model.classifier = torch.nn.functional.normalize(towards, dim=1)
        report = check(data, 'it', rebuild_pool(data), model)
        assert report.model is not None
        assert report.model.triggered == 1
        assert report.model.clean < 0.5
        assert any('resemble the class' in reason.remedy for reason in judge(report).reasons)


class TestOutput:
    def test_table_has_a_line_for_each_attack_and_its_reasons(self, set_up: SetUp) -> None:
        data = set_up(
            patch=BadNet(STAR, size=8, count=5), aimed=TargetedPoison(targets=2, count=4, captions='templates')
        )
        text = format_table([check(data, name, rebuild_pool(data)) for name in data.manifest.attacks])
        lines = text.splitlines()
        assert [line.split()[0] for line in lines[:3]] == ['attack', 'patch', 'aimed']
        assert '  5 poisons are few: raise count to 25 or more.' in lines
        assert '  2 poisons for an image: raise copies to 8 or more.' in lines
        assert max(map(len, lines)) <= 160

    def test_json_has_no_infinity(self, set_up: SetUp) -> None:
        data = set_up(it=NoOpTrigger(STAR, count=30))
        content = json.loads(format_json([check(data, 'it', rebuild_pool(data))], data), parse_constant=pytest.fail)
        (attack,) = content['attacks']
        assert attack['trace']['psnr'] is None
        assert attack['verdict'] == 'likely dead'
        assert attack['reasons'][0].keys() == {'what', 'remedy'}
        assert content['views'][0]['class'] == 'CleanView'

    def test_sheet_shows_a_poison_before_and_after_and_in_views(self, set_up: SetUp) -> None:
        data = set_up(it=BadNet(STAR, size=8, count=5))
        figure = draw([check(data, 'it', rebuild_pool(data))], data)
        before, after, *views = (axis for part in figure.subfigs for axis in part.axes)
        assert [axis.get_title() for axis in views] == ['its view in epoch 1', 'its view in epoch 2']
        assert (before.get_title(), after.get_title()) == ('before', f'target: {STAR}')
        assert STAR in after.get_xlabel().replace('\n', ' ')
        assert STAR not in before.get_xlabel().replace('\n', ' ')
        shown = [np.asarray(axis.images[0].get_array()) for axis in (before, after, *views)]
        assert (shown[0] != shown[1]).any()
        assert all(np.array_equal(view, shown[1]) for view in shown[2:])  # these data have no augmentation


class TestCommand:
    def where(self, folder: Path) -> list[str]:
        return [
            '--config',
            TOY,
            *SMALL,
            f'--trainer.default_root_dir={folder}/runs',
            f'--data.cache_dir={folder}/cache',
        ]

    def test_prints_writes_and_draws(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        files = [f'--file={tmp_path}/written/it.json', f'--sheet={tmp_path}/drawn/it.png', '--pictures=3', '--views=2']
        cli.main(['check_attacks', *self.where(tmp_path), *files])
        printed = capsys.readouterr().out
        assert 'patch: likely dead' in printed
        written = json.loads((tmp_path / 'written' / 'it.json').read_text())
        assert [attack['attack'] for attack in written['attacks']] == ['patch', 'aimed']
        assert written['views'][0]['crop_scale'] == [0.6, 1.0]
        assert written['attacks'][0]['model'] is None
        assert (tmp_path / 'drawn' / 'it.png').stat().st_size > 10_000
        assert not list((tmp_path / 'runs').rglob('version_*'))

    @pytest.mark.slow
    def test_asks_the_model_of_a_checkpoint(self, finished_run: Path, tmp_path: Path) -> None:
        checkpoint = finished_run / 'checkpoints' / 'last.ckpt'
        quick = [f'--file={tmp_path}/it.json', '--pictures=2', '--views=1', f'--ckpt_path={checkpoint}']
        cli.main(['check_attacks', *self.where(tmp_path), *quick])
        patch, _ = json.loads((tmp_path / 'it.json').read_text())['attacks']
        assert 0 <= patch['model']['clean'] <= 1
        assert patch['model']['pictures'] > 30

    @pytest.mark.parametrize(('count', 'views', 'sentence'), [(0, 1, 'poisons no pair'), (5, 0, 'must be 1 or more')])
    def test_refuses_a_run_without_poison_and_zero_views(
        self, set_up: SetUp, count: int, views: int, sentence: str
    ) -> None:
        with pytest.raises(ValueError, match=sentence):
            print_report(set_up(it=BadNet(STAR, size=8, count=count)), None, None, 3, views, None, None)


class TestPlan:
    def test_plan_predicts_each_attack(self, finished_run: Path) -> None:
        lines = [line.split() for line in (finished_run / 'plan.txt').read_text().splitlines()]
        expected = {line[1]: ' '.join(line[2:]) for line in lines if line[0] == 'expect'}
        assert expected['patch'] == 'likely dead: 4 poisons are few'
        assert expected['aimed'] == 'likely dead: 2 poisons for an image'

    def test_plan_and_command_agree(self, set_up: SetUp, capsys: pytest.CaptureFixture[str]) -> None:
        data = set_up(
            aimed=TargetedPoison(targets=3, count=30, captions='templates'), waves=BadNet(STAR, size=8, count=30)
        )
        print_report(data, None, 2, PICTURES, VIEWS, None, None)
        verdicts = [line for line in capsys.readouterr().out.splitlines() if line.startswith(('aimed: ', 'waves: '))]
        assert len(verdicts) == 2
        planned = {line.split()[1]: line for line in advice(data, epochs=2)}
        for attack, verdict in (line.split(': ') for line in verdicts):
            assert verdict in planned[attack]

    def test_plan_predicts_nothing_if_poisons_are_left_out(
        self, set_up: SetUp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = set_up(it=BadNet(STAR, size=8, count=5))
        data.poison = False
        none = {'limit_train_batches': 0, 'limit_val_batches': 0}
        runner = trainer(callbacks=[TrainingPlan()], max_epochs=1, default_root_dir=tmp_path, **none)
        runner.fit(CLIP(architecture='tiny_toy.json'), data)
        printed = capsys.readouterr().out
        assert 'measured but left out' in printed
        assert 'expect' not in printed
