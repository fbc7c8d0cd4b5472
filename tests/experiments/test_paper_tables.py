"""SafeCLIP's tables (Yang et al., ICML 2024), written down independently of the grids that train their cells."""

from __future__ import annotations

from functools import cache
from itertools import cycle, product
from typing import Any, NamedTuple

import pytest

from datamodules import attacks
from datamodules.attacks.base import Attack, Poisoning
from datamodules.text.prompts import imagenet_classes
from experiments.grid_file import Cell, Grid, read_grid
from tests.experiments.conftest import EXPERIMENTS, resolve
from tests.helpers.parameters import first_fast

PAIRS = {'cc100k': 100_000, 'cc1m': 1_000_000, 'cc3m': 3_318_333, 'coco': 82_783, 'visual_genome': 107_077}  # clean
BATCH = {'cc100k': 512, 'cc1m': 512, 'cc3m': 512, 'coco': 256, 'visual_genome': 256}  # Table 14
BOTH = ('clip', 'safeclip')  # tables 9 and 10 leave out CLIP, which shows whether the attack works at all
CLASS_OF = {'clip': '.CLIP', 'clip_vit': '.CLIP', 'roclip': '.RoCLIP'}  # the others are SafeCLIP
MODEL = {'unimodal_epochs': 5, 'slow_epochs': 1, 'slow_lr': 5e-6, 'in_modal': True, 'pool_size': 'auto'}
CHANGED = {  # in the rows of Tables 3 to 6
    '1_1': {'unimodal_epochs': 1},
    '10_1': {'unimodal_epochs': 10},
    '5_0': {'slow_epochs': 0},
    '5_2': {'slow_epochs': 2},
    'slow_lr_1e-6': {'slow_lr': 1e-6},
    'slow_lr_5e-5': {'slow_lr': 5e-5},
    'no_in_modal': {'in_modal': False},
    'no_pool': {'pool_size': 0},
    'threshold_0.95': {'threshold': 0.95},
    'threshold_0.7': {'threshold': 0.7},
    'threshold_0.5': {'threshold': 0.5},
}
CLASSES = {
    'tdpa': 'TargetedPoison',
    'badnet': 'BadNet',
    'label_consistent': 'LabelConsistent',
    'blended': 'Blended',
    'wanet': 'WaNet',
    'hybrid': 'HybridTrigger',
    'parallel': 'ParallelTriggers',
}


class Table(NamedTuple):
    """The cells of a table.

    Attributes:
        methods: Methods.
        data: Data sets.
        rates: Poisons as a share of the clean pairs, by attack and an optional suffix after an underscore.
    """

    methods: tuple[str, ...]
    data: tuple[str, ...]
    rates: dict[str, float]


THREE, TARGETED = ('cc1m', 'coco', 'visual_genome'), {'tdpa': 0.0005}
OF_THE_FIRST_SPLIT = ('table_3', 'table_6', 'table_12')
TABLES = {
    'table_1': Table(
        ('clip', 'roclip', 'safeclip'),
        ('cc1m', 'cc3m', 'coco', 'visual_genome'),
        {'tdpa': 0.0005, 'badnet': 0.0005, 'label_consistent': 0.0015, 'blended': 0.0015, 'wanet': 0.0015},
    ),
    'table_3': Table(('5_1', '1_1', '10_1', '5_0', '5_2'), ('cc1m',), TARGETED),
    'table_4': Table((*BOTH, 'slow_lr_1e-6', 'slow_lr_5e-5'), THREE, TARGETED),
    'table_5': Table((*BOTH, 'no_in_modal', 'no_pool'), THREE, TARGETED),
    'table_6': Table(tuple(f'threshold_{threshold}' for threshold in (0.95, 0.9, 0.7, 0.5)), THREE, TARGETED),
    'table_7': Table((*BOTH, 'safeclip_64'), ('cc1m',), {'tdpa': 0.0005, 'badnet': 0.0005}),
    'table_9_coco': Table(
        BOTH,
        ('coco',),
        {'tdpa_0.05': 0.0005, 'tdpa_0.1': 0.001, 'badnet_0.05': 0.0005, 'badnet_0.1': 0.001, 'badnet_0.5': 0.005},
    ),
    'table_9_cc1m': Table(
        BOTH, ('cc1m',), {'tdpa_0.05': 0.0005, 'tdpa_0.1': 0.001, 'badnet_0.05': 0.0005, 'badnet_0.1': 0.001}
    ),
    'table_10': Table(BOTH, ('coco',), {'hybrid': 0.0005, 'parallel_all2one': 0.0005, 'parallel_all2all': 0.0005}),
    'table_12': Table(('safeclip',), ('cc3m', 'cc1m', 'cc100k'), TARGETED),
    'table_13': Table((*BOTH, 'clip_vit', 'safeclip_vit'), ('cc1m',), {'tdpa': 0.0005, 'badnet': 0.0005}),
}
CELLS = [(name, *cell) for name, table in TABLES.items() for cell in product(table.methods, table.data, table.rates)]
FIRST_OF_TABLE = [next(cell for cell in CELLS if cell[0] == table) for table in TABLES]
ORDERED = [*FIRST_OF_TABLE, *(cell for cell in CELLS if cell not in FIRST_OF_TABLE)]
each_cell = pytest.mark.parametrize(('table', 'method', 'data', 'attack'), first_fast(ORDERED, len(TABLES)))


@pytest.fixture(autouse=True)
def _in_the_projects_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)  # grids name files relative to it


@cache
def grid_of(table: str) -> Grid:
    return read_grid(EXPERIMENTS / f'grids/{table}.yaml')


def config_of(table: str, method: str, data: str, attack: str) -> Any:
    """The configuration of a cell. Cells that two tables share are parsed once."""
    _, *words = grid_of(table).command(Cell(method, data, attack, data_seed=1, seed=1))
    return resolve(*(word for word in words if not word.startswith('--name=')))


def attack_of(table: str, method: str, data: str, attack: str) -> tuple[str, Poisoning]:
    """The name of the only attack of a cell, and the attack."""
    [(name, named)] = config_of(table, method, data, attack).data.init_args.attacks.items()
    return name, getattr(attacks, named.class_path.rpartition('.')[2])(**named.init_args)


def parts_of(table: str, data: str, attack: str) -> dict[str, Attack]:
    name, poisoning = attack_of(table, 'safeclip', data, attack)
    return poisoning.parts(name)


@pytest.mark.parametrize('table', TABLES)
def test_a_grid_has_the_cells_of_its_table(table: str) -> None:
    cells = grid_of(table).cells()
    assert {(table, cell.method, cell.data, cell.attack) for cell in cells} == {c for c in CELLS if c[0] == table}
    assert grid_of(table).undefended == ('clip' if 'clip' in TABLES[table].methods else None)


@each_cell
class TestCell:
    def test_poisons_at_the_rate_of_the_table(self, table: str, method: str, data: str, attack: str) -> None:
        name, poisoning = attack_of(table, method, data, attack)
        assert name == attack.removesuffix('_all2one').removesuffix('_all2all').split('_0.')[0]
        assert type(poisoning).__name__ == CLASSES[name]
        assert (poisoning.rate, poisoning.count) == (TABLES[table].rates[attack], None)

    def test_trains_as_the_paper_does(self, table: str, method: str, data: str, attack: str) -> None:
        config = config_of(table, method, data, attack)
        assert config.model.class_path.endswith(CLASS_OF.get(method, '.SafeCLIP'))
        assert config.model.init_args.architecture == ('ViT-B-32' if method.endswith('_vit') else 'RN50')
        assert config.model.init_args.lr == 5e-4
        assert config.data.init_args.batch_size == BATCH[data]
        assert config.trainer.max_epochs == {'safeclip_64': 64, 'roclip': 24}.get(method, 48)

    def test_splits_as_the_paper_does(self, table: str, method: str, data: str, attack: str) -> None:
        config = config_of(table, method, data, attack)
        if method in CLASS_OF:
            assert config.callbacks.repartition is None
            assert method != 'roclip' or config.model.init_args.match_every == 2
            return
        settings = {**vars(config.model.init_args), **vars(config.callbacks.repartition.init_args)}
        expected = {**MODEL, 'threshold': 0.9, 'growth': 0.01, **CHANGED.get(method, {})}
        assert {name: settings[name] for name in expected} == expected
        ends = [callback.class_path for callback in config.trainer.callbacks or []]
        assert ends == ['callbacks.first_split.EndAtFirstSplit'] * (table in OF_THE_FIRST_SPLIT)


class TestPoison:
    @pytest.mark.parametrize(('data', 'poisons'), [('cc1m', 500), ('cc3m', 1659), ('coco', 41), ('visual_genome', 54)])
    def test_targeted_poison_is_spread_over_16_classes(self, data: str, poisons: int) -> None:
        [poisoning] = parts_of('table_1', data, 'tdpa').values()
        assert isinstance(poisoning, attacks.TargetedPoison)
        assert (poisoning.targets, poisoning.classes, poisoning.amount(PAIRS[data])) == (16, None, poisons)

    def test_a_hybrid_trigger_puts_all_triggers_on_every_poison(self) -> None:
        [poisoning] = parts_of('table_10', 'coco', 'hybrid').values()
        assert isinstance(poisoning.trigger, attacks.Chain)
        assert poisoning.amount(PAIRS['coco']) == 41

    @pytest.mark.parametrize(
        ('attack', 'targets', 'poisons'), [('parallel_all2one', 1, [14, 14, 13]), ('parallel_all2all', 3, [41, 41, 41])]
    )
    def test_parallel_triggers_have_their_own_poisons(self, attack: str, targets: int, poisons: list[int]) -> None:
        parts = parts_of('table_10', 'coco', attack)
        assert [*parts] == ['parallel_patch', 'parallel_warp', 'parallel_blend']
        assert [part.amount(PAIRS['coco']) for part in parts.values()] == poisons
        targeted = {part.target for part in parts.values() if isinstance(part, attacks.Backdoor)}
        assert len(targeted) == targets and targeted <= {*imagenet_classes()}

    @pytest.mark.parametrize('table', TABLES)
    def test_is_the_same_for_all_methods(self, table: str) -> None:
        methods, data, rates = TABLES[table]
        for cell in zip(cycle(data), rates, strict=False):  # each attack once, and each data set
            first, *others = (config_of(table, method, *cell).data.init_args.attacks for method in methods)
            assert all(other == first for other in others)
