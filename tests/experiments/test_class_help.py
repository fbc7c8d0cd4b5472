from __future__ import annotations

import inspect

import pytest

from datamodules.attacks.badnet import BadNet
from datamodules.usage_error import UsageError
from experiments.class_help import answer_help, arguments_of, describe_class
from experiments.option_check import classes_of_project


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit:
        answer_help(['fit', *arguments])
    assert exit.value.code == 0
    return capsys.readouterr().out


class TestAnswerHelp:
    @pytest.mark.parametrize(
        ('option', 'expected'),
        [
            (['--data.attacks.help', 'BadNet'], '--data.attacks.NAME.target (str, required)'),
            (['--data.attacks.mine.help=BadNet'], '--data.attacks.mine.size (int, default: 16)'),
            (['--data.attacks.mine.trigger.help', 'datamodules.attacks.badnet.Patch'], '--data.attacks.mine.trigger.'),
            (['--callbacks.repartition.score.help', 'Augmented'], '--callbacks.repartition.score.views (int'),
            (['--data.help=CSVPairs'], '--data.labeled ('),
            (['--callbacks.zero_shot.help'], '--callbacks.zero_shot=ZeroShot'),
        ],
    )
    def test_explains_a_class_at_any_depth(
        self, option: list[str], expected: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert expected in answer(capsys, *option)

    def test_lists_the_classes_that_fit(self, capsys: pytest.CaptureFixture[str]) -> None:
        listed = answer(capsys, '--data.attacks.help', '--name=a')
        assert '  BadNet  ' in listed and '  TargetedPoison  ' in listed
        assert listed.endswith('What one of them takes: --data.attacks.help Backdoor\n')

    def test_refuses_a_misspelled_class_with_a_similar_one(self) -> None:
        with pytest.raises(UsageError, match=r'^data\.attacks: BadNett is not .*: did you mean BadNet'):
            answer_help(['--data.attacks.help', 'BadNett'])

    @pytest.mark.parametrize('option', ['--model.help=mine.Model', '--trainer.logger.help', '--callbacks.probe.help'])
    def test_leaves_classes_of_other_packages_to_the_parser(
        self, option: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        answer_help(['fit', option])  # would exit
        assert not capsys.readouterr().out


class TestArgumentsOf:
    @pytest.mark.parametrize('name', [*classes_of_project().family('PairsDataModule'), 'BadNet', 'SafeCLIP'])
    def test_each_has_a_text_of_whole_sentences(self, name: str) -> None:
        assert all(text.endswith('.') for text in arguments_of(name).values())

    def test_are_those_of_python(self) -> None:
        of_python = [inspect.signature(base.__init__).parameters for base in BadNet.__mro__[:-1]]
        expected = {name for parameters in of_python for name in parameters} - {'self', 'args', 'kwargs'}
        assert set(arguments_of('BadNet')) == expected

    def test_texts_have_no_markup(self) -> None:
        assert '``' not in describe_class('CSVPairs', 'data') and ':class:' not in describe_class('CSVPairs', 'data')
