from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from datamodules.usage_error import UsageError
from experiments.sections import move_sections


def test_the_section_of_a_file_comes_before_the_options(tmp_path: Path) -> None:
    (tmp_path / 'mine.yaml').write_text('fit:\n  name: ${trainer.max_epochs}\ntest: {name: b}\n')
    moved = move_sections(['-c', str(tmp_path / 'mine.yaml'), '--print_config', 'fit', '--name=c'], 'fit')
    assert moved == ['fit', '--config=name: ${trainer.max_epochs}\n', '--print_config', '--name=c']


def test_a_command_that_begins_with_its_subcommand_stays_as_it_is() -> None:
    assert move_sections(['fit', '--config', 'a.yaml'], 'fit') == ['fit', '--config', 'a.yaml']


def test_bases_of_a_section_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / 'a.yaml').write_text('')
    (tmp_path / 'mine.yaml').write_text('fit: {base: [a.yaml, methods/clip.yaml]}\n')
    text = move_sections([f'--config={tmp_path}/mine.yaml', 'fit'], 'fit')[1].removeprefix('--config=')
    first, second = yaml.safe_load(text)['base']
    assert first == str(tmp_path / 'a.yaml') and second.endswith('/methods/clip.yaml')


@pytest.mark.parametrize('text', ['', '# none\n', 'fit:\n', 'validate: {name: a}\n'])
def test_a_file_may_have_nothing_for_a_subcommand(text: str, tmp_path: Path) -> None:
    (tmp_path / 'mine.yaml').write_text(text)
    assert move_sections([f'--config={tmp_path}/mine.yaml', 'fit'], 'fit') == ['fit', '--config={}\n']


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('model: CLIP\n', r'has no section fit: .* as in clipward fit --config FILE'),
        ('fit: {}\ntst: {}\n', r"unrecognized section 'tst': did you mean test"),
        ('fit: [1]\n', r'expected settings by name under fit, got \[1\]'),
    ],
)
def test_what_is_no_section_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / 'mine.yaml').write_text(text)
    with pytest.raises(UsageError, match=sentence):
        move_sections([f'--config={tmp_path}/mine.yaml', 'fit'], 'fit')
