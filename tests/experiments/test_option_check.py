from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datamodules.usage_error import UsageError
from experiments.option_check import check_options
from experiments.subcommands import PLAIN_TOOLS, SUBCOMMANDS
from tests.experiments.conftest import EXPERIMENTS, parse
from tests.helpers.parameters import first_fast

TOY = ['--config', str(EXPERIMENTS / 'safeclip_toy.yaml')]


class TestMisspelledOptions:
    @pytest.mark.parametrize(
        ('option', 'similar'),
        [
            ('--trainer.max_epoch=3', '--trainer.max_epochs'),
            ('--nam=mine', '--name'),
            ('--modle=CLIP', '--model'),
            ('--cpkt_path=a.ckpt', '--ckpt_path'),
            ('--model.lrr=1', '--model.lr'),
            ('--model.init_args.slow_epoch=1', '--model.init_args.slow_epochs'),
            ('--data.batchsize=1', '--data.batch_size'),
            ('--data.image_views.crop_scal=1', '--data.image_views.crop_scale'),
            ('--data.attacks.badnet.rat=1', '--data.attacks.badnet.rate'),
            ('--callbacks.ledgr=null', '--callbacks.ledger'),
            ('--callbacks.repartition.treshold=0.9', '--callbacks.repartition.threshold'),
            ('--callbacks.checkpoint.save_topk=0.9', '--callbacks.checkpoint.save_top_k'),
        ],
    )
    def test_are_refused_with_a_similar_one(self, option: str, similar: str) -> None:
        with pytest.raises(UsageError) as caught:
            check_options('fit', [*TOY, option])
        name = option.partition('=')[0]
        assert str(caught.value) == f'unrecognized option {name}: did you mean {similar}?'

    def test_without_a_similar_one_are_refused_all_the_same(self) -> None:
        with pytest.raises(UsageError, match=r'^unrecognized option --qqq\.$'):
            check_options('fit', ['--qqq'])

    @pytest.mark.parametrize(
        ('subcommand', 'option'),
        [
            ('fit', '--allow_untrained=true'),
            ('fit', '--folder=a'),
            ('export', '--ckpt_path=a'),
            ('export', '--device=a'),
        ],
    )
    def test_options_of_another_subcommand_are_refused(self, subcommand: str, option: str) -> None:
        with pytest.raises(UsageError, match='unrecognized option'):
            check_options(subcommand, [option])


class TestKeysOfFiles:
    @pytest.mark.parametrize(
        ('text', 'sentence'),
        [
            (
                'trainer: {max_epoch: 3}',
                'unrecognized key trainer.max_epoch in the given text: did you mean trainer.max_epochs?',
            ),
            ('model: {init_args: {lrr: 3}}', 'did you mean model.init_args.lr?'),
            (
                'data: {init_args: {attacks: {x: {class_path: BadNet, init_args: {rat: 0.1}}}}}',
                'did you mean data.init_args.attacks.x.init_args.rate?',
            ),
            ('folder: a', 'unrecognized key folder in the given text: only export has it.'),
            ('validate: {name: a}', 'has a section validate: name a file with sections before the subcommand'),
            ('trainer: null', 'line 1: trainer takes settings by name'),
            ('data: {init_args: 3}', 'line 1: data.init_args takes settings by name'),
            ('model: {class_path: 3}', 'line 1: model.class_path must be the name of a class'),
        ],
    )
    def test_are_checked_like_options(self, text: str, sentence: str) -> None:
        with pytest.raises(UsageError) as caught:
            check_options('fit', [*TOY, '--config', f'{text}\n'])
        assert sentence in str(caught.value)


def test_a_key_that_the_user_chose_may_have_dots() -> None:
    text = 'data: {init_args: {attacks: {a.b: {class_path: BadNet, init_args: {mine: 1}}}}}\n'
    check_options('fit', [*TOY, '--config', text])


class TestValues:
    @pytest.mark.parametrize('option', ['--name', '--model.lr', '--trainer.fast_dev_run'])
    def test_a_missing_one_is_refused(self, option: str) -> None:
        with pytest.raises(UsageError, match=f'{option} needs a value, as in {option}=VALUE'):
            check_options('fit', [*TOY, option, '--seed_everything=1'])


@pytest.mark.parametrize(('word', 'home'), [('max_epochs', 'trainer'), ('batch_size', 'data'), ('slow_lr', 'model')])
def test_an_argument_without_its_home_is_refused_with_it(word: str, home: str) -> None:
    with pytest.raises(UsageError, match=f'did you mean --{home}.{word}?'):
        check_options('fit', [f'--{word}=1'])


def test_a_missing_file_is_refused_with_a_similar_one() -> None:
    with pytest.raises(UsageError, match=r'safeclip_toys\.yaml; did you mean safeclip_toy\.yaml'):
        check_options('fit', ['--config', 'safeclip_toys.yaml'])


class TestOptionsThatPass:
    @pytest.mark.parametrize(
        'option',
        [
            '--trainer.callbacks+=EarlyStopping',
            '--trainer.callbacks.monitor=loss',
            '--data.attacks.mine.rate=0.1',
            '--data.attacks.mine.init_args.rate=0.1',
            '--data.attacks.mine.class_path=BadNet',
            '--data.help',
            '--model.help=CLIP',
            '--print_config=skip_unset',
            '--callbacks.linear_probe.anything=1',
            '--callbacks.checkpoint.monitor=loss',
        ],
    )
    def test_existing_ones_do(self, option: str) -> None:
        check_options('fit', [*TOY, option])

    @pytest.mark.parametrize(
        'foreign',
        [
            ['--model=mine.Model'],
            ['--model', 'TheirModel'],
            ['--model.class_path=mine.Model'],
            ['--config', '{model: mine.Model}'],
            ['--config', '{model: {class_path: TheirModel}}'],
            ['--config', 'base: [mine.yaml]\n'],
        ],
    )
    def test_any_does_where_a_class_is_not_ours(
        self, foreign: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / 'mine.yaml').write_text('model: mine.Model')
        check_options('fit', [*TOY, *foreign, '--model.anything=1'])

    @pytest.mark.parametrize(
        'subcommand', first_fast(['fit', 'export', *sorted({*SUBCOMMANDS} - {'fit', 'export', *PLAIN_TOOLS})], 2)
    )
    def test_all_that_the_parser_knows_do(self, subcommand: str) -> None:
        required = {
            'audit': ['--out=a'],
            'clean': ['--folder=a'],
            'explain': ['--models.a=b', '--out=a'],
            'export': ['--folder=a'],
            'export_model': ['--out=a'],
            'harden': ['--attack=a'],
            'protect': ['--store=a', '--out=b'],
        }
        aims = ['--target=a', '--file=a'] if subcommand in ('optimize_patch', 'rank_images') else []
        untrained = ['--allow_untrained=true'] if subcommand in ('validate', 'test', 'predict') else []
        config = parse(subcommand, *TOY, *required.get(subcommand, []), *aims, *untrained)
        check_options(subcommand, [*TOY, *(f'--{key}=1' for key in leaves(config.as_dict()))])


def leaves(config: dict[str, Any], prefix: str = '') -> Iterator[str]:
    """Keys of all values of a configuration, however deep."""
    for key, value in config.items():
        if isinstance(value, dict) and value and key != 'dict_kwargs':
            yield from leaves(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}'


def test_the_file_of_a_missing_package_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('experiments.option_check._lightning_folder', Path)
    check_options('fit', ['--trainer.anything=1'])
