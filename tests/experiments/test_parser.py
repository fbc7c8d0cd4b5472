from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from experiments import cli
from experiments.cli import find_classes_in
from experiments.parser import VERBATIM
from tests.experiments.conftest import EXPERIMENTS, Parsed, _fit_parser, parse, resolve

TOY = f'--config={EXPERIMENTS / "clip_toy.yaml"}'
WARPED = (  # an attack with a class inside its class
    '--data.attacks={warped: {class_path: UnimodalBackdoor, '
    'init_args: {target: striped star, trigger: {class_path: Warp, init_args: {control_points: 4}}}}}'
)


def attack(name: str, *args: str) -> Any:
    """Arguments of an attack, as the command reads them."""
    return resolve(TOY, *args).data.init_args.attacks[name].init_args


class TestNull:
    @pytest.mark.parametrize('option', [['--data.attacks.badnet.count=null'], ['--data.attacks.badnet.count', 'null']])
    def test_of_a_number_in_an_attack(self, option: list[str]) -> None:
        assert attack('badnet').count == 120
        assert attack('badnet', '--data.attacks.badnet.rate=0.1', *option).count is None

    def test_of_a_text_in_an_attack(self) -> None:
        given = '--data.attacks.badnet.ranking=banana.csv'
        assert attack('badnet', given).ranking == 'banana.csv'
        assert attack('badnet', given, '--data.attacks.badnet.ranking=null').ranking is None

    def test_of_a_whole_attack(self) -> None:
        attacks = resolve(TOY, '--data.attacks.badnet=null').data.init_args.attacks
        assert attacks['badnet'] is None and attacks['tdpa'] is not None

    def test_of_a_class_in_an_attack(self) -> None:
        assert attack('warped', WARPED).trigger.init_args.control_points == 4
        assert attack('warped', WARPED, '--data.attacks.warped.trigger=null').trigger is None

    @pytest.mark.parametrize('spelling', ['trigger.control_points', 'init_args.trigger.init_args.control_points'])
    def test_of_an_argument_of_a_class_in_an_attack(self, spelling: str) -> None:
        option = f'--data.attacks.warped.{spelling}=null'
        assert attack('warped', WARPED, option).trigger.init_args.control_points is None

    def test_of_an_argument_one_level_down(self) -> None:
        assert resolve(TOY, '--model.init_from=a.ckpt', '--model.init_from=null').model.init_args.init_from is None

    def test_inside_a_list_or_dictionary(self) -> None:
        option = '--data.attacks.badnet={class_path: BadNet, init_args: {target: striped star, ranking: null}}'
        assert attack('badnet', option).ranking is None

    def test_in_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / 'mine.yaml'
        file.write_text('data: {init_args: {attacks: {badnet: {init_args: {count: null, rate: 0.1}}}}}')
        assert attack('badnet', f'--config={file}').count is None


class TestClassOfAKey:
    @pytest.mark.parametrize('spelling', ['', '.class_path'])
    def test_may_be_followed_by_its_arguments(self, spelling: str) -> None:
        options = [f'--data.filters.part{spelling}=RandomSubset', '--data.filters.part.share=0.5']
        (rule,) = resolve(TOY, *options).data.init_args.filters.values()
        assert rule.class_path.endswith('.RandomSubset') and rule.init_args.share == 0.5

    def test_may_be_one_of_the_users_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = 'from datamodules.rows.filters import RandomSubset\n\n\nclass Mine(RandomSubset):\n    pass\n'
        (tmp_path / 'my_own_filters.py').write_text(source)
        monkeypatch.setattr('sys.path', [*sys.path])
        find_classes_in(str(tmp_path))
        options = ['--data.filters.part.class_path=my_own_filters.Mine', '--data.filters.part.share=0.5']
        (rule,) = resolve(TOY, *options).data.init_args.filters.values()
        assert (rule.class_path, rule.init_args.share) == ('my_own_filters.Mine', 0.5)
        assert sys.path[-1] == str(tmp_path)

    def test_keeps_arguments_that_another_class_takes_too(self) -> None:
        assert attack('badnet', '--data.attacks.badnet.class_path=Backdoor').target == 'striped star'


class TestText:
    """A text argument may be one of the words that YAML reads as something else."""

    def test_the_word_none_is_a_text_in_an_option(self) -> None:
        assert attack('badnet', '--data.attacks.badnet.ranking=None').ranking == 'None'

    @pytest.mark.parametrize('word', ['None', '"None"'])
    def test_the_word_none_is_a_text_in_a_file(self, tmp_path: Path, word: str) -> None:
        file = tmp_path / 'mine.yaml'
        file.write_text(f'data: {{init_args: {{attacks: {{badnet: {{init_args: {{ranking: {word}}}}}}}}}}}')
        assert attack('badnet', f'--config={file}').ranking == 'None'

    def test_a_number_stays_a_number(self) -> None:
        assert attack('badnet', '--data.attacks.badnet.count=7').count == 7
        views = resolve(TOY, '--data.image_views.crop_scale=[0.1, 1]').data.init_args.image_views
        assert views.init_args.crop_scale == (0.1, 1.0)


def test_arguments_that_no_signature_has_are_passed_on_as_they_were_typed() -> None:
    assert resolve(TOY, '--model.dict_kwargs.depth=3').model.dict_kwargs == {'depth': 3}


class TestErrors:
    @pytest.mark.parametrize(
        ('option', 'sentence'),
        [
            ('--data.attacks.badnet.swaps=null', "data.attacks: Option 'swaps' is not accepted by BadNet"),
            ('--data.attacks.badnet.seed=null', 'data.attacks.badnet.seed: expected int, got null'),
            ('--data.batch_size=null', 'data.batch_size: expected int, got null'),
            ('--data.attacks.badnet.size=many', 'data.attacks.badnet.size: expected int, got many'),
            ('--data.nonsense.rate=null', 'nonsense.rate'),
        ],
    )
    def test_a_mistake_below_a_class_is_told_without_the_marker(
        self, capsys: pytest.CaptureFixture[str], option: str, sentence: str
    ) -> None:
        with pytest.raises(SystemExit):
            parse('fit', TOY, option)
        message = capsys.readouterr().err
        assert sentence in message and VERBATIM not in message and repr(VERBATIM).strip("'") not in message

    def test_an_option_without_a_value_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parse('fit', TOY, '--data.attacks.badnet.count', '--trainer.max_epochs=3')
        assert '--data.attacks.badnet.count needs a value' in capsys.readouterr().err


def test_a_csv_logger_logs_where_the_run_is() -> None:
    root, given = '--trainer.default_root_dir=elsewhere', '--trainer.logger=CSVLogger'
    logger = parse('fit', TOY, given, root, '--name=mine').trainer.logger.init_args
    assert (logger.save_dir, logger.name) == ('elsewhere', 'mine')
    assert parse('fit', TOY, given, '--trainer.logger.save_dir=here').trainer.logger.init_args.save_dir == 'here'


def test_values_of_the_environment_are_saved_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CLIPWARD_TEST', '/secret')
    options = [
        '--data.cache_dir=${oc.env:CLIPWARD_TEST}/a',
        '--config',
        '{trainer: {default_root_dir: "${oc.env:CLIPWARD_TEST}"}}',
    ]
    command = cli.main(['fit', TOY, *options], Parsed)
    assert command.config.fit.data.init_args.cache_dir == '/secret/a'
    saved = command._subcommand_parsers['fit'].dump(command.config.fit)
    assert 'cache_dir: ${oc.env:CLIPWARD_TEST}/a' in saved and '/secret' not in saved
    again = cli.main(['fit', '--config', saved], Parsed)
    assert again.config.fit.data.init_args.cache_dir == '/secret/a'
    assert again.config.fit.trainer.default_root_dir == '/secret'


class TestPrivateNames:
    """Names of jsonargparse that this project leans on; a new release may lose them without notice."""

    def test_of_a_parser_exist(self) -> None:
        actions = _fit_parser()._option_string_actions
        assert actions['--data']._typehint is not None
