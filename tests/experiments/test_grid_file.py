from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.usage_error import UsageError
from experiments.grid_file import Cell, read_grid
from tests.experiments.grid_files import write_grid


def _keeping(keep: Any) -> dict[str, Any]:
    """Methods of which one is trained on the pairs that the ledger of the other one keeps."""
    return {'methods': {'clip': [], 'b': {'ledger': 'clip', 'keep': keep}}}


def _table(method: str) -> dict[str, Any]:
    return {'methods': {'plain': {method: 'CLIP'}}, 'attacks': {'badnet': 'BadNet'}}


_PREDICTING: dict[str, Any] = {'clip': [], 'scores': {'predict': 'clip'}}


class TestReadGrid:
    def test_is_the_product_of_its_axes(self, tmp_path: Path) -> None:
        cells = write_grid(tmp_path).cells()
        assert len(cells) == len(set(cells)) == 2 * 2 * 1 * 2
        assert cells[0] == Cell('clip', 'coco', 'badnet', 1, 1) and cells[-1] == Cell(
            'cleanclip', 'toy', 'badnet', 2, 3
        )

    def test_arguments_of_a_cell_follow_the_shared_ones(self, tmp_path: Path) -> None:
        command = write_grid(tmp_path).command(Cell('cleanclip', 'toy', 'badnet', 2, 3))
        assert command[:5] == ['fit', '--config=cleanclip_toy.yaml', '--c=2', '--b=badnet', '--d=3']
        assert command[5:] == ['--name=cleanclip-toy-badnet-d2-t3', '--data.seed=2', '--seed_everything=3']

    def test_a_method_may_be_trained_on_the_pairs_of_a_ledger(self, tmp_path: Path) -> None:
        grid = write_grid(tmp_path, **_keeping({'max_p': 0.1}))
        cell = Cell('b', 'toy', 'badnet', 2, 3)
        assert grid.ledgers_of(cell) == [Cell('clip', 'toy', 'badnet', 2, 3)] and grid.weights_of(cell) is None
        kept = ['--d=3', '--data.filters.ledger=LedgerFilter', '--data.filters.ledger.max_p=0.1']
        assert grid.command(cell)[3:6] == kept

    def test_attacks_may_have_their_own_seeds(self, tmp_path: Path) -> None:
        grid = write_grid(tmp_path, data=None, attacks={'tdpa': [], 'wanet': {'seeds': [[2, 3], 4]}})
        runs = {(cell.attack, cell.data_seed, cell.seed) for cell in grid.cells()}
        assert runs == {('tdpa', 1, 1), ('tdpa', 2, 3), ('wanet', 2, 3), ('wanet', 4, 4)}

    def test_methods_may_leave_out_some_of_the_seeds(self, tmp_path: Path) -> None:
        methods = {'clip': [], 'par': {'start': 'clip', 'seeds': [[2, 3], 7]}}
        grid = write_grid(tmp_path, methods=methods, data=None)
        assert [(cell.method, cell.seed) for cell in grid.cells()] == [('clip', 1), ('clip', 3), ('par', 3)]
        assert [len(grid.users_of(cell)) for cell in grid.cells()] == [0, 1, 0]

    def test_stages_are_all_that_a_method_needs(self, tmp_path: Path) -> None:
        methods = {'a': [], 'b': {'ledger': 'a'}, 'scores': {'predict': 'b'}, 'd': {'start': 'a', 'ledger': 'scores'}}
        grid = write_grid(tmp_path, methods=methods, undefended=None)
        assert grid.stages('a') == {'a'} and grid.stages('d') == {'a', 'b', 'scores', 'd'}

    def test_data_and_attacks_are_optional(self, tmp_path: Path) -> None:
        grid = write_grid(tmp_path, data=None, attacks=None, seeds=[4])
        assert [cell.name for cell in grid.cells()] == ['clip-d4-t4', 'cleanclip-d4-t4']

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            ({'method': {}}, 'method: unknown or missing. The keys of a grid are arguments, attacks, data'),
            ({'seeds': None}, 'seeds: unknown or missing'),
            ({'undefended': 'x'}, 'x: start, ledger, predict and undefended must name one of the methods'),
            ({'methods': {'clip': {'start': 'y'}}}, 'y: start, ledger, predict and undefended must name'),
            ({'methods': {'clip': {'ledger': 'y'}}}, 'y: start, ledger, predict and undefended must name'),
            ({'methods': {'clip': {'starts': 'x'}}}, 'methods.clip: starts is unknown; the keys are arguments, start'),
            ({'methods': {'clip': '--a=1'}}, r"methods.clip must be a list of arguments, as in .*; got '--a=1'\.$"),
            ({'methods': ['clip']}, r"methods must map names to arguments, as in .*; got \['clip'\]\.$"),
            ({'arguments': '--a=1'}, 'arguments must be a list of arguments'),
            ({'methods': _PREDICTING | {'b': {'start': 'scores'}}}, 'methods.b: scores predicts and trains nothing'),
            ({'methods': _PREDICTING | {'b': {'predict': 'scores'}}}, 'methods.b: scores predicts and trains nothing'),
            ({'methods': _PREDICTING, 'undefended': 'scores'}, 'undefended: scores predicts and trains nothing'),
            (
                {'methods': _PREDICTING, 'table': _table('scores')},
                'scores: not one of the methods that the grid trains',
            ),
            ({'undefended': None, 'table': _table('clip')}, 'table shows training time over that of the undefended'),
            ({'table': ['clip']}, 'grid.yaml: table must have the keys methods and attacks'),
            ({'seeds': 1}, r'seeds must be a list of numbers, .*; got 1\.$'),
            ({'seeds': [[1]]}, 'seeds must be a list of numbers'),
            ({'seeds': []}, 'seeds must be a list of numbers'),
            ({'seeds': ['1']}, 'seeds must be a list of numbers'),
            ({'attacks': {'x': {'seeds': [True]}}}, 'attacks.x.seeds must be a list of numbers'),
            ({'methods': {'clip': {'start': 'b'}, 'b': {'start': 'clip'}}}, 'clip needs b needs clip, so none can be'),
            ({'methods': {'clip': {'ledger': 'clip'}}}, 'methods.clip: clip needs clip, so none can be first'),
            ({'methods': {'clip': {'keep': {'share': 0.5}}}}, 'methods.clip.keep needs a ledger'),
            (_keeping({'share': 2}), r'methods.b.keep: .*share must be a fraction of the pairs in \(0, 1\], got 2'),
            ({'methods': {'clip': {'seeds': [1]}, 'b': {'start': 'clip'}}}, 'b-.*-d2-t3 needs clip, whose seeds leave'),
            (
                {'methods': {'clip': {'ledger': 'clip', 'predict': 'clip'}}},
                'methods.clip: predict trains nothing: leave out',
            ),
            ({'methods': {'clip': {'seeds': [7]}}}, 'grid.yaml has no cell: no method and no data set has the seeds'),
            ({'seeds': []}, 'seeds must be a list of numbers'),
            ({'methods': {'clip': [], 'clip-a': []}, 'data': {'a-b': [], 'b': []}}, 'two cells are named clip-a-b'),
        ],
    )
    def test_names_the_keys_and_methods_that_are_wrong(
        self, change: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match=message):
            write_grid(tmp_path, **change)

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (None, 'grid.yaml cannot be read: No such file or directory.'),
            ('{methods: ', 'grid.yaml is not YAML: '),
            ('\0', 'grid.yaml is not YAML: '),
            ('[]', 'grid.yaml: methods, seeds: unknown or missing'),
        ],
    )
    def test_names_a_file_that_is_not_a_grid(self, content: str | None, message: str, tmp_path: Path) -> None:
        if content is not None:
            (tmp_path / 'grid.yaml').write_text(content)
        with pytest.raises(UsageError, match=message):
            read_grid(tmp_path / 'grid.yaml')

    def test_a_method_comes_after_those_that_it_needs(self, tmp_path: Path) -> None:
        methods = {'last': {'start': 'clip', 'ledger': 'late'}, 'late': {'ledger': 'clip'}, 'clip': []}
        waves = write_grid(tmp_path, methods=methods, data=None, seeds=[1]).waves()
        assert [[cell.method for cell in wave] for wave in waves] == [['clip'], ['late'], ['last']]
