from __future__ import annotations

import pytest

from datamodules.usage_error import UsageError
from experiments.config_text import read_mapping


class TestReadMapping:
    @pytest.mark.parametrize('text', ['', '# about\n', '---\n', 'null\n'])
    def test_of_nothing_but_comments_is_none(self, text: str) -> None:
        assert read_mapping(text, 'a.yaml') is None

    @pytest.mark.parametrize(
        ('text', 'sentence'),
        [
            ('- a\n', r'holds a list: expected settings by name'),
            ('hello\n', r'holds a single value'),
            ('model:\n\tclass_path: CLIP\n', r'line 2: a tab, where YAML wants spaces'),
            ('model: {a: b\n', r"line 2: did not find expected ',' or '}'"),
            ('a: b\0\n', r'unacceptable character #x0000'),
            ('name: *nothing\n', r'line 1: found undefined alias'),
            ('name: a\nname: b\n', r'line 2 sets name again, after line 1: keep one'),
            ('trainer:\n  max_epochs: 3\n  max_epochs: 4\n', r'line 3 sets max_epochs again, after line 2'),
            ('a: &x {b: [*x]}\n', r'line 1: a value that contains itself'),
            ('{[1]: a}\n', r'line 1: a name must stand before the colon'),
            ('name: !!python/object/apply:os.system [ls]\n', r'line 1: tags such as .* are not read'),
            ('a: 1\n---\nb: 1\n', r'line 2: but found another document'),
        ],
    )
    def test_says_what_is_wrong_and_where(self, text: str, sentence: str) -> None:
        with pytest.raises(UsageError, match=rf'^config: a\.yaml.*{sentence}'):
            read_mapping(text, 'a.yaml')

    def test_a_node_may_be_used_twice(self) -> None:
        assert read_mapping('a: &x {b: c}\nd: {<<: *x}\ne: *x\n', 'a.yaml') is not None
