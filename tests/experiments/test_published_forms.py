from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from experiments import cli
from tests.experiments.conftest import EXPERIMENTS, FakeRun
from tests.helpers.parameters import first_fast
from tests.helpers.picture_files import write_picture
from tests.helpers.published import samples, write_list, write_part, write_shard
from tests.helpers.tiny import tiny_architecture

# All that is said on the command line beside the architecture. Paths are not: every run has a working directory of its
# own, where data lies as the file expects it. What is missing here is as in the file, bfloat16 and figures included.
SMALL = [
    '--data.batch_size=8',
    '--data.num_workers=0',
    '--model.unimodal_epochs=1',
    '--trainer.max_epochs=4',
    '--trainer.log_every_n_steps=1',
    '--trainer.accelerator=cpu',
]
SMALL_ATTACKS = [  # whose pictures have 224 pixels, and whose pairs are millions
    '--data.attacks.tdpa.targets=2',
    '--data.attacks.tdpa.rate=0.1',
    '--data.attacks.badnet.rate=0.1',
    '--data.attacks.badnet.size=4',
    '--data.templates=["a photo of a {}"]',
]
PHASES = [{'unimodal'}, {'cross_modal'}, {'cross_modal', 'unimodal'}, {'cross_modal', 'unimodal'}]  # terms of the loss
NAMED = ('banana', 'lemon', 'espresso', 'volcano')  # of the classes of ImageNet
LISTED, KEPT = 44, 40  # lines of the published list, and those whose picture could be downloaded
HELDOUT = 16
POISONS = KEPT // 10  # of each attack


def caption(number: int) -> str:
    """As in CC3M: lower case, spaces around punctuation, names replaced."""
    return f'person {number} , with a {NAMED[number % len(NAMED)]} and " actor " , on the beach .'


def downloaded(listed: int) -> list[int]:
    """Lines whose picture is still there."""
    return [number for number in range(listed) if number % 11 != 5]


def as_published(folder: Path, listed: int) -> None:
    write_list(folder / 'list.tsv', (f'{caption(n)}\thttp://example.org/{n}' for n in range(listed)))
    for number in downloaded(listed):
        write_picture(folder / 'images' / f'{number:09d}.jpg', number)


def as_folders(folder: Path, listed: int) -> None:
    for part, numbers in parts(listed):
        write_part(folder / part, numbers, metadata=True, caption=caption)


def as_shards(folder: Path, listed: int) -> None:
    for part, numbers in parts(listed):
        write_shard(folder / f'{part}.tar', samples(numbers, caption=caption))


def parts(listed: int) -> Iterator[tuple[str, list[int]]]:
    numbers = downloaded(listed)
    half = len(numbers) // 2
    yield from (('00000', numbers[:half]), ('00001', numbers[half:]))


def as_csv(file: Path, listed: int) -> None:
    for number in downloaded(listed):
        write_picture(file.parent / 'images' / f'{number}.jpg', number)
    with file.open('w', newline='') as opened:
        rows = ((f'images/{number}.jpg', caption(number)) for number in downloaded(listed))
        csv.writer(opened).writerows([('image', 'caption'), *rows])


FORMS: dict[str, Callable[[Path, int], None]] = {
    'published list': as_published,
    'folders': as_folders,
    'shards': as_shards,
}
Finished = Callable[[str], Path]


def fitted(file: str, place: Path, overrides: Sequence[str]) -> Path:
    """Folder of a run of an experiment as it stands, in a working directory that holds its data."""
    tiny = f'--model.architecture={tiny_architecture(place, "published")}'
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        cli.main(['fit', '--config', str(EXPERIMENTS / file), tiny, *overrides])
    return place / 'runs' / Path(file).stem / 'version_0'


@pytest.fixture(scope='module')
def of_cc3m(tmp_path_factory: pytest.TempPathFactory, fake_wandb: list[FakeRun]) -> Finished:
    """The run on a form of CC3M, each once."""

    @cache
    def run(form: str) -> Path:
        place = tmp_path_factory.mktemp('cc3m')
        FORMS[form](place / 'data/cc3m/train', LISTED)
        FORMS[form](place / 'data/cc3m/validation', HELDOUT)
        return fitted('safeclip_cc3m.yaml', place, [*SMALL, *SMALL_ATTACKS])

    return run


@pytest.fixture(scope='module')
def of_own(tmp_path_factory: pytest.TempPathFactory, fake_wandb: list[FakeRun]) -> Finished:
    """The run of an experiment on pairs of the user's own, each once."""

    @cache
    def run(file: str) -> Path:
        place = tmp_path_factory.mktemp('own')
        as_shards(place / 'data/shards', LISTED) if 'webdataset' in file else as_csv(place / 'pairs.csv', LISTED)
        return fitted(file, place, SMALL)

    return run


def measured(run: Path, epoch: int) -> dict[str, float]:
    """The last of each metric in an epoch; a step that lacks a term of the loss has nan."""
    with (run / 'metrics.csv').open(newline='') as opened:
        lines = [line for line in csv.DictReader(opened) if int(line['epoch']) == epoch]
    return {name: float(value) for line in lines for name, value in line.items() if value not in ('', 'nan')}


def trained(run: Path) -> list[set[str]]:
    """Terms of the loss in each epoch."""
    epochs = [measured(run, epoch) for epoch in range(len(PHASES))]
    return [{name for name in ('cross_modal', 'unimodal') if f'train/{name}' in epoch} for epoch in epochs]


def assert_ended(run: Path) -> None:
    assert json.loads((run / 'DONE').read_text())['epochs'] == len(PHASES)
    plan = [line.split()[0] for line in (run / 'plan.txt').read_text().splitlines()]
    assert [word for word in plan if word in ('unimodal', 'slow', 'mixed')] == ['unimodal', 'slow', 'mixed']
    assert trained(run) == PHASES
    splits = [epoch for epoch in range(len(PHASES)) if 'partition/share' in measured(run, epoch)]
    assert splits == [1, 2, 3]  # for both mixed epochs, and for one more, should the run be made longer


class TestCC3M:
    @pytest.mark.parametrize('form', first_fast(FORMS))
    def test_runs_through_every_phase(self, form: str, of_cc3m: Finished) -> None:
        assert_ended(of_cc3m(form))

    @pytest.mark.parametrize('form', first_fast(FORMS))
    def test_attacks_are_measured_in_every_epoch_and_every_split(self, form: str, of_cc3m: Finished) -> None:
        run = of_cc3m(form)
        for epoch in range(len(PHASES)):
            assert all(0 <= measured(run, epoch)[f'asr/{attack}/rate'] <= 1 for attack in ('tdpa', 'badnet'))
        for epoch in (1, 2, 3):
            split = measured(run, epoch)
            assert 0 < split['partition/share'] < 1
            assert all(0 <= split[f'partition/leak/{attack}'] <= 1 for attack in ('tdpa', 'badnet'))

    @pytest.mark.parametrize('form', first_fast(FORMS))
    def test_the_ledger_has_a_line_for_each_pair(self, form: str, of_cc3m: Finished) -> None:
        ledger = pq.read_table(of_cc3m(form) / 'ledger.parquet')
        assert ledger['row'].to_pylist() == list(range(KEPT + 2 * POISONS))
        assert ledger['caption'].to_pylist()[:KEPT] == [caption(number) for number in downloaded(LISTED)]
        assert ledger['similarity'].null_count == 0
        assert {*ledger['side'].to_pylist()} == {'safe', 'risky'}

    @pytest.mark.parametrize('form', first_fast(FORMS))
    def test_poisons_are_written_down(self, form: str, of_cc3m: Finished) -> None:
        manifest = pq.read_table(of_cc3m(form) / 'manifest.parquet').to_pylist()
        assert [poison['attack'] for poison in manifest] == ['tdpa'] * POISONS + ['badnet'] * POISONS
        assert [poison['row'] for poison in manifest] == list(range(KEPT, KEPT + 2 * POISONS))
        assert all(poison['origin'] == 'heldout' for poison in manifest)
        assert all(poison['target_class'] in poison['caption'] for poison in manifest)
        assert {poison['target_class'] for poison in manifest[POISONS:]} == {'banana'}

    def test_a_pair_is_the_same_in_every_form(self, of_cc3m: Finished) -> None:
        """Rows, captions and poisons, and with them all that was trained and measured."""
        one, *others = (of_cc3m(form) for form in FORMS)
        for other in others:
            assert pq.read_table(one / 'manifest.parquet').equals(pq.read_table(other / 'manifest.parquet'))
            ledgers = (pq.read_table(run / 'ledger.parquet').drop_columns('key') for run in (one, other))
            assert next(ledgers).equals(next(ledgers))


class TestPairsOfTheUsersOwn:
    @pytest.mark.parametrize('file', first_fast(['safeclip_webdataset.yaml', 'safeclip_pairs.yaml']))
    def test_nothing_but_pairs_is_needed(self, file: str, of_own: Finished) -> None:
        run = of_own(file)
        assert_ended(run)
        assert not [name for epoch in range(len(PHASES)) for name in measured(run, epoch) if name.startswith('asr/')]
        assert len(pq.read_table(run / 'manifest.parquet')) == 0
        ledger = pq.read_table(run / 'ledger.parquet')
        assert ledger['caption'].to_pylist() == [caption(number) for number in downloaded(LISTED)]
        assert {*ledger['side'].to_pylist()} == {'safe', 'risky'}
