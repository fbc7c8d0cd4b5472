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
from lightning_modules.schedules import auto_slow_factor
from tests.experiments.conftest import EXPERIMENTS, resolve
from tests.helpers.parameters import first_fast

PAIRS = {'cc1m': 1_000_000, 'cc3m': 3_318_333, 'coco': 82_783, 'visual_genome': 107_077}  # before any poison
BATCH = {'cc1m': 512, 'cc3m': 512, 'coco': 256, 'visual_genome': 256}  # Table 14
BOTH = ('clip', 'safeclip')  # tables 9 and 10 leave out CLIP, which shows whether the attack works at all
CLASS_OF = {'clip': '.CLIP', 'roclip': '.RoCLIP'}  # the others are SafeCLIP
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


TABLES = {
    'table_1': Table(
        ('clip', 'roclip', 'safeclip'),
        ('cc1m', 'cc3m', 'coco', 'visual_genome'),
        {'tdpa': 0.0005, 'badnet': 0.0005, 'label_consistent': 0.0015, 'blended': 0.0015, 'wanet': 0.0015},
    ),
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
    assert grid_of(table).undefended == 'clip'


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
        assert config.model.init_args.architecture == 'RN50'
        assert config.model.init_args.lr == 5e-4
        assert config.data.init_args.batch_size == BATCH[data]
        assert config.trainer.max_epochs == {'safeclip_64': 64, 'roclip': 24}.get(method, 48)

    def test_splits_as_the_paper_does(self, table: str, method: str, data: str, attack: str) -> None:
        config = config_of(table, method, data, attack)
        if method in CLASS_OF:
            assert config.callbacks.repartition is None
            assert method == 'clip' or config.model.init_args.match_every == 2
            return
        model, split = config.model.init_args, config.callbacks.repartition.init_args
        steps = PAIRS[data] // BATCH[data]
        slow_lr = model.lr * auto_slow_factor(steps) if model.slow_lr == 'auto' else model.slow_lr
        assert (model.unimodal_epochs, model.slow_epochs, slow_lr) == (5, 1, pytest.approx(5e-6))
        assert (split.threshold, split.growth) == (0.9, 0.01)


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
