from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, get_args

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from callbacks.figures import Figures
from callbacks.metric_names import Direction, RetrievalQuantity
from callbacks.retrieval import Measured, Retrieval, measure_retrieval, number_meanings, number_pictures
from callbacks.sweep import Embeddings
from datamodules.attacks.badnet import BadNet
from datamodules.pictures.images import ArrayImages
from datamodules.rows.table import PairTable
from datamodules.usage_error import UsageError
from lightning_modules.clip import CLIP
from tests.callbacks.observed import QUIET
from tests.helpers.tiny import TinyPairs, tiny_architecture, trainer

pytestmark = QUIET
NO_PICTURES = ArrayImages(np.zeros((1, 8, 8, 3), np.uint8))


def table(image: list[str], caption: list[str], label: list[int] | None = None) -> PairTable:
    return PairTable(image, caption, label, ('Ann', 'Bob'), opener=NO_PICTURES)


def five_captions(pictures: int) -> PairTable:
    image = np.repeat(np.arange(pictures), 5).astype(str).tolist()
    return table(image, [f'caption {row}' for row in range(5 * pictures)])


def embedded(pictures: int, noise: float) -> Embeddings:
    """Captions around their pictures."""
    draw = np.random.default_rng(0)
    image = draw.normal(size=(pictures, 32)).repeat(5, 0)
    text = image + noise * draw.normal(size=image.shape)
    return Embeddings(image.astype(np.float32), text.astype(np.float32))


class TestMeasures:
    def test_a_perfect_model(self) -> None:
        measured = measure_retrieval(embedded(60, noise=0.01), five_captions(60), by_class=False, permutations=100)
        for way in get_args(Direction):
            assert measured[way, 'r1'] == measured[way, 'medr'] == measured[way, 'medr_high'] == 1
            assert measured[way, 'r1_low'] == pytest.approx(60 / (60 + 1.96**2), abs=1e-4)  # 60 pictures, not 300
            assert measured[way, 'above_chance'] > 0.9 and measured[way, 'tied'] == 0
        assert measured['t2i', 'medr_chance'] == pytest.approx(30.5, abs=1)

    def test_captions_that_belong_to_other_pictures_are_chance(self) -> None:
        pairs, (image, text) = five_captions(60), embedded(60, noise=0.3)
        shifted = [Embeddings(np.roll(image, 5 * by, 0), text) for by in range(1, 60, 3)]
        all_measured = [measure_retrieval(each, pairs, by_class=False, permutations=100) for each in shifted]
        for way in get_args(Direction):
            bands = [(m[way, 'medr_chance_low'], m[way, 'medr'], m[way, 'medr_chance_high']) for m in all_measured]
            assert np.mean([low <= medr <= high for low, medr, high in bands]) >= 0.85  # a band holds 95 % of them
        # Captions of one picture resemble each other; if they did not, it would be 39.
        assert all_measured[0]['i2t', 'medr_chance'] > 100

    def test_every_quantity_has_a_name(self) -> None:
        measured = measure_retrieval(embedded(4, noise=1), five_captions(4), by_class=False, permutations=2)
        assert {*measured} == {(way, what) for way in get_args(Direction) for what in get_args(RetrievalQuantity)}

    def test_permutations_are_the_same_every_time(self) -> None:
        first, second = (measure_retrieval(embedded(20, noise=1), five_captions(20), False, 10) for _ in range(2))
        assert first == second

    def test_a_diverged_model_finds_nothing(self) -> None:
        nothing = np.full((60, 4), np.nan, np.float32)
        measured = measure_retrieval(Embeddings(nothing, nothing), five_captions(12), False, 10)
        assert (measured['i2t', 'r10'], measured['i2t', 'medr'], measured['t2i', 'medr']) == (0, 61, 13)
        assert measured['i2t', 'above_chance'] == 0


class TestWhatIsTheSame:
    def test_pairs_of_one_reference_show_one_picture(self) -> None:
        assert number_pictures(table(['b', 'a', 'b', 'c'], ['w', 'x', 'y', 'z'])).tolist() == [0, 1, 0, 2]

    def test_equal_words_say_the_same(self) -> None:
        pairs = table(['1', '2', '3'], ['this is Ann', 'Ann', 'this is Ann'])
        assert number_meanings(pairs, by_class=False).tolist() == [0, 1, 0]

    def test_all_captions_of_a_class_can_say_the_same(self) -> None:
        pairs = table(['1', '2', '3', '4', '5'], ['this is Ann', 'Ann', 'Bob', 'x', 'x'], [0, 0, 1, -1, -1])
        numbers = number_meanings(pairs, by_class=True)
        assert numbers[0] == numbers[1] and numbers[3] == numbers[4] and len({*numbers.tolist()}) == 3

    def test_captions_of_one_person_are_right_for_all_of_their_photos(self) -> None:
        pairs = table(['1', '2', '3'], ['this is Ann', 'Ann in a photo', 'Bob'], [0, 0, 1])
        # The first photo of Ann resembles the caption of the second one and the other way round.
        image, text = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[1, 0, 2]]
        strict, by_person = (measure_retrieval(Embeddings(image, text), pairs, by, 2) for by in (False, True))
        assert (strict['i2t', 'r1'], by_person['i2t', 'r1'], by_person['t2i', 'r1']) == (pytest.approx(1 / 3), 1, 1)


# --- runs -----------------------------------------------------------------------------------------------------------


class Captioned(TinyPairs):
    """Four held-out pictures with three captions each, labeled or not."""

    def __init__(self, is_labeled: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.is_labeled = is_labeled

    def load_heldout(self) -> PairTable | None:
        if (pairs := super().load_heldout()) is None:
            return None
        label = pairs.label if self.is_labeled else None
        captions = [f'{pairs.captions([row])[0]} {row}' for row in range(len(pairs))]
        image = pairs.image.take(np.arange(len(pairs)) // 3).to_pylist()
        return PairTable(image, captions, label, pairs.classes if self.is_labeled else (), opener=pairs.opener)


def run(
    stage: str,
    folder: Path,
    is_labeled: bool = True,
    epochs: int = 2,
    data: dict[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, list[float]]:
    """Retrieval metrics in the log of a run, by name."""
    torch.manual_seed(0)
    model = CLIP(tiny_architecture(folder), lr=1e-3)
    logger = CSVLogger(folder / 'log', name='', version='')
    settings = {'max_epochs': epochs, 'logger': logger, **kwargs}
    running = trainer(callbacks=[Retrieval(permutations=3)], **settings)
    pairs = Captioned(is_labeled, cache_dir=str(folder / 'cache'), **data or {})
    getattr(running, stage)(model, datamodule=pairs, **({} if stage == 'fit' else {'verbose': False}))
    file = folder / 'log' / 'metrics.csv'
    rows = list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []
    names = sorted({name for row in rows for name in row if name.startswith(('retrieval/', 'asr_retrieval/'))})
    return {name: [float(row[name]) for row in rows if row[name]] for name in names}


@pytest.mark.parametrize('is_labeled', [True, False])
@pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
def test_is_measured_in_every_kind_of_run(stage: str, is_labeled: bool, tmp_path: Path) -> None:
    logged = run(stage, tmp_path, is_labeled)
    names = {f'retrieval/heldout/{way}_{what}' for way in get_args(Direction) for what in get_args(RetrievalQuantity)}
    assert logged.keys() == names
    assert {len(values) for values in logged.values()} == {2 if stage == 'fit' else 1}
    assert logged['retrieval/heldout/t2i_r5'][0] == 1  # of four pictures
    assert logged['retrieval/heldout/i2t_r10'][0] > 0.9


BACKDOOR = {'attacks': {'badnet': BadNet('cat', count=2, size=2, source='train')}}


@pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
def test_attacks_are_measured_beside_clean_pictures(stage: str, tmp_path: Path) -> None:
    logged = run(stage, tmp_path, data=BACKDOOR)
    success = {name: values for name, values in logged.items() if name.startswith('asr_')}
    quantities = ('rate', 'low', 'high', 'hits', 'n', 'clean', 'recall', 'recall_n')
    assert success.keys() == {f'asr_retrieval/badnet/{what}' for what in quantities}
    assert {len(values) for values in success.values()} == {2 if stage == 'fit' else 1}
    assert success['asr_retrieval/badnet/n'][0] + success['asr_retrieval/badnet/recall_n'][0] == 4


@pytest.mark.parametrize('heldout_rows', [12, 0])
def test_measures_further_sets_beside_the_held_out_pairs(heldout_rows: int, tmp_path: Path) -> None:
    published = tmp_path / 'published'
    published.mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(published / f'{number}.png')
    image, caption = ['0.png', '0.png', '1.png'], ['vows a cat', 'vows a dog', 'amen a boat']
    manifest = pa.table({'image': image, 'source': image, 'protected_caption': caption})
    pq.write_table(manifest, published / 'manifest.parquet')
    data = {'heldout_rows': heldout_rows, 'retrieval_sets': {'protected': str(published)}}
    logged = run('test', tmp_path, data=data)
    assert logged['retrieval/protected/i2t_r5'] == logged['retrieval/protected/t2i_r5'] == [1]  # of 3 and 2
    assert ('retrieval/heldout/t2i_medr' in logged) == bool(heldout_rows)


def test_follows_the_epochs_of_evaluation(tmp_path: Path) -> None:
    logged = run('fit', tmp_path, is_labeled=False, epochs=3, check_val_every_n_epoch=2)
    assert len(logged['retrieval/heldout/i2t_medr']) == 1


@pytest.mark.parametrize('is_labeled', [True, False])
def test_is_drawn_at_the_epochs_of_evaluation(is_labeled: bool, tmp_path: Path) -> None:
    drawer, logger = Figures(), CSVLogger(tmp_path / 'log', name='', version='')
    settings: dict[str, Any] = {'max_epochs': 3, 'check_val_every_n_epoch': 2, 'logger': logger}
    model, data = CLIP(tiny_architecture(tmp_path)), Captioned(is_labeled, cache_dir=str(tmp_path / 'cache'))
    trainer(callbacks=[Retrieval(permutations=3), drawer], **settings).fit(model, data)
    assert [epoch for epoch, _ in drawer.history['retrieval/heldout/i2t_medr']] == [2]
    assert (tmp_path / 'log/figures/retrieval.png').is_file()


def test_measures_what_the_embeddings_say(tmp_path: Path) -> None:
    logged = run('test', tmp_path)
    torch.manual_seed(0)
    model = CLIP(tiny_architecture(tmp_path), lr=1e-3)
    pairs = Captioned(cache_dir=str(tmp_path / 'cache'))
    outputs = trainer().predict(model, PredictHeldout(pairs))
    assert outputs is not None and pairs.heldout is not None
    image, text = (torch.cat([part[name] for part in outputs]).numpy() for name in ('image', 'text'))
    expected: Measured = measure_retrieval(Embeddings(image, text), pairs.heldout, by_class=False, permutations=3)
    assert {name: values[0] for name, values in logged.items()} == pytest.approx(
        {f'retrieval/heldout/{way}_{what}': value for (way, what), value in expected.items()}, rel=1e-5
    )


class PredictHeldout(L.LightningDataModule):
    """Predicts the held-out pairs of other data."""

    def __init__(self, data: Captioned) -> None:
        super().__init__()
        self.data = data

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        self.data.prepare_data()
        self.data.setup(stage)

    def predict_dataloader(self) -> Any:
        return self.data.heldout_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)


def test_pictures_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    logged = run('test', tmp_path, data={'broken_heldout': [0]})
    # Three pictures and nine captions are left: the first three rows show the broken picture.
    assert logged['retrieval/heldout/i2t_r10'] == [1] and logged['retrieval/heldout/t2i_meanr'][0] <= 3


def test_without_heldout_pairs_nothing_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level('INFO'):
        assert run('fit', tmp_path, data={'heldout_rows': 0}) == {}
    assert 'Retrieval is not measured: the data holds out no pairs.' in caplog.messages


@pytest.mark.parametrize('argument', ['permutations', 'attack_top'])
def test_numbers_start_at_one(argument: str) -> None:
    with pytest.raises(UsageError, match=rf'callbacks\.retrieval\.{argument} must be at least 1'):
        Retrieval(**{argument: 0})


@pytest.mark.slow
def test_two_processes_measure_the_same_as_one(tmp_path: Path) -> None:
    ddp: dict[str, Any] = {'strategy': 'ddp_spawn', 'devices': 2}
    (tmp_path / 'one').mkdir()
    (tmp_path / 'two').mkdir()
    one, two = (run('test', tmp_path / name, data=BACKDOOR, **more) for name, more in (('one', {}), ('two', ddp)))
    assert two.keys() == one.keys() and one
    assert all(two[name] == pytest.approx(one[name]) for name in one)
