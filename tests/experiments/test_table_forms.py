from __future__ import annotations

from experiments.table_forms import Table, latex


class TestTable:
    def test_is_markdown_with_its_notes_below(self) -> None:
        table = Table.of([['run', 'ASR'], ['clip*', '1.000']], ['* not finished.'])
        assert str(table).splitlines() == ['| run | ASR |', '| --- | --- |', '| clip* | 1.000 |', '', '* not finished.']

    def test_is_false_without_a_row(self) -> None:
        assert not Table.of([['run', 'ASR']]) and Table.of([['run'], ['clip']])

    def test_knows_which_rows_are_of_a_paper(self) -> None:
        table = Table.of([['run'], ['clip'], ['clip']], published=1)
        assert [table.is_published(row) for row in table.rows] == [False, False, True]


class TestLatex:
    def test_escapes_what_means_something_there(self) -> None:
        text = latex(Table.of([['run_1', '95 %'], [r'a\b{c}', '0.5 ± 0.1†']]))
        assert r'run\_1 & 95 \% \\' in text and r'a\textbackslash{}b\{c\} & 0.5 $\pm$ 0.1$\dagger$ \\' in text

    def test_a_row_may_begin_as_an_argument_of_the_row_before(self) -> None:
        lines = latex(Table.of([['run'], ['[1] ours'], ['*']])).splitlines()
        assert lines[4:6] == [r'{}[1] ours \\', r'{}* \\']

    def test_sets_rows_of_a_paper_apart(self) -> None:
        lines = latex(Table.of([['run'], ['ours'], ['theirs']], ['a note'], published=1)).splitlines()
        assert lines[4:8] == [r'ours \\', r'\midrule', r'theirs \\', r'\bottomrule']
        assert lines[0] == r'\begin{tabular}{l}' and lines[-1] == r'\par a note'
