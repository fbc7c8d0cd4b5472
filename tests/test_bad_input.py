"""A run that cannot work ends with one sentence before it trains; a few bad pairs are dropped and counted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from callbacks.repartition import SafeRiskyRepartition
from datamodules.pairs import PairsDataModule
from datamodules.rows.partition import DROPPED
from datamodules.text.tokenizer import WordTokenizer
from experiments import cli
from experiments.command_line import CommandLine
from lightning_modules.clip import CLIP
from lightning_modules.safeclip import SafeCLIP
from tests.helpers.file_server import serve
from tests.helpers.parameters import first_fast
from tests.helpers.picture_files import bomb, truncated_photo, write_picture
from tests.helpers.published import write_coco, write_flickr, write_visual_genome
from tests.helpers.tiny import tiny_architecture, trainer

SHIPPED = Path(__file__).parents[1] / 'lightning_modules/model_configs'
STEPS_PER_EPOCH = 2
CAPTION = 'a dog'
SHORT_RUN = (
    '--trainer.max_epochs=1',
    '--trainer.accelerator=cpu',
    '--trainer.logger=false',
    '--trainer.enable_progress_bar=false',
    '--trainer.enable_model_summary=false',
    '--trainer.enable_checkpointing=false',
    '--trainer.callbacks=null',
    '--callbacks.attack_success=null',
    '--callbacks.zero_shot=null',
    '--callbacks.figures=null',
    '--callbacks.epoch_cost=null',
    '--callbacks.checkpoint=null',
    '--data.batch_size=8',
    '--data.templates=["a {}"]',
)
TOY = ('--data=ToyPairs', '--data.rows=16', '--data.heldout_rows=8')
SAFECLIP = ('--model=SafeCLIP', '--model.unimodal_epochs=1', '--callbacks.repartition=SafeRiskyRepartition')


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch numbers of the training steps taken during the test."""
    taken: list[int] = []
    train = CLIP.training_step

    def count_step(self: CLIP, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        taken.append(batch_idx)
        return train(self, batch, batch_idx)

    monkeypatch.setattr(CLIP, 'training_step', count_step)
    return taken


@pytest.fixture(autouse=True, scope='module')
def reuse_tokenizer() -> Iterator[None]:
    """Reads the vocabulary once, because reading it takes longer than the rest of a setup."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('datamodules.pairs.WordTokenizer', cache(WordTokenizer))
        yield


def fit(folder: Path, *args: str) -> CommandLine:
    """Runs ``clipward fit`` for one short epoch with a tiny model and further arguments."""
    folders = [f'--data.cache_dir={folder}/cache', f'--trainer.default_root_dir={folder}']
    data = [arg for arg in args if arg.startswith('--data=')] or list(TOY)
    model = [arg for arg in args if arg.startswith('--model=')] or ['--model=CLIP']
    architecture = f'--model.architecture={tiny_architecture(folder)}'
    return cli.main(['fit', *data, *model, architecture, *SHORT_RUN, *folders, *args])


class RefusedFit:
    """Runs a command that must end with a one-line error.

    Args:
        folder: Folder for its files.
        steps: Training steps taken so far, see :func:`steps`.
        capsys: Captures its output.
    """

    def __init__(self, folder: Path, steps: list[int], capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.steps, self.capsys = folder, steps, capsys

    def __call__(self, *args: str, after: int = 0) -> str:
        """Returns the error message and checks that it came after the given number of training steps."""
        self.steps.clear()
        with pytest.raises(SystemExit) as exit:
            fit(self.folder, *args)
        assert exit.value.code == 2
        assert len(self.steps) == after
        written = self.capsys.readouterr().err
        (line,) = (line for line in written.splitlines() if line.startswith('error: '))
        assert written.endswith(f'{line}\n')
        return line.removeprefix('error: ')


@pytest.fixture
def refused(tmp_path: Path, steps: list[int], capsys: pytest.CaptureFixture[str]) -> RefusedFit:
    return RefusedFit(tmp_path, steps, capsys)


# --- files ----------------------------------------------------------------------------------------------------------


def write_csv_pairs(folder: Path, content: str) -> tuple[str, ...]:
    """Writes a CSV beside two pictures and returns the arguments that name it."""
    for number in range(2):
        write_picture(folder / f'{number}.jpg', number)
    (folder / 'pairs.csv').write_text(content)
    return '--data=CSVPairs', f'--data.train={folder / "pairs.csv"}'


def write_cc3m_list(folder: Path, content: str) -> tuple[str, ...]:
    """Writes a list in the form of CC3M beside two pictures and returns the arguments that name it."""
    for number in range(2):
        write_picture(folder / 'Train' / f'{number:09d}.jpg', number)
    (folder / 'Train.tsv').write_text(content)
    return '--data=CC3M', f'--data.root={folder / "Train.tsv"}'


COCO_FILE = 'annotations/captions_train2014.json'


class TestFiles:
    @pytest.mark.parametrize(
        ('args', 'sentence'),
        first_fast(
            [
                (['--data=CC3M', '--data.root=nowhere'], "data.root='nowhere' does not exist: name the files"),
                (['--data=CSVPairs', '--data.train=nowhere'], "data.train='nowhere' does not exist: name the files"),
                (
                    ['--data=CaptionedImages', '--data.root=nowhere'],
                    "data.root='nowhere' does not exist: name the files",
                ),
                (
                    ['--data=WebDatasetPairs', '--data.shards=nowhere'],
                    "data.shards='nowhere': 1 of 1 shards do not exist",
                ),
            ],
            2,
        ),
        ids=['of CC3M', 'of a CSV', 'of folders of classes', 'of shards'],
    )
    def test_a_missing_root(self, args: list[str], sentence: str, refused: RefusedFit) -> None:
        assert sentence in refused(*args)

    def test_a_root_without_the_images_that_a_csv_names(self, refused: RefusedFit, tmp_path: Path) -> None:
        file = write_csv_pairs(tmp_path, 'image,caption\nelsewhere/0.jpg,a dog\n')
        assert 'set data.root to the folder that paths are relative to' in refused(*file)

    @pytest.mark.parametrize(
        ('content', 'sentence'),
        first_fast(
            [
                ('', 'is empty: name a file with a line for each pair'),
                ('image,caption\n', 'has no usable pair: none of its 0 rows has an image and a caption'),
                (
                    'image,caption\n0.jpg,a dog, outside\n',
                    '1 of 1 rows do not have 2 fields (quote fields that contain the separator); first: line 2',
                ),
                ('image,text\n0.jpg,a dog\n', 'set data.caption_column to one of'),
                ('image;caption\n0.jpg;a dog\n', 'or data.separator if these are several columns in one'),
            ],
            1,
        ),
        ids=['empty', 'no row', 'comma in a caption', 'other columns', 'other separator'],
    )
    def test_a_malformed_csv(self, content: str, sentence: str, refused: RefusedFit, tmp_path: Path) -> None:
        line = refused(*write_csv_pairs(tmp_path, content))
        assert line.startswith('data.train=')
        assert sentence in line

    @pytest.mark.parametrize(
        ('content', 'sentence'),
        first_fast(
            [
                ('', 'is empty: name a file with a line for each pair'),
                ('a\tdog\tu\na\tcat\tu\n', '2 of 2 rows do not have 2 fields (separate them by tabs); first: line 1'),
                ('a dog\n', '1 of 1 rows do not have 2 fields (separate them by tabs); first: line 1'),
                (
                    'a dog\tu\n',
                    'an image for line 1 (counted from 0): give the list that the images were downloaded from',
                ),
                (' \tu\n\tu\n', 'has no usable pair'),
            ],
            1,
        ),
        ids=['empty', 'tab in a caption', 'no address', 'of other images', 'no caption'],
    )
    def test_a_malformed_tsv_of_cc3m(self, content: str, sentence: str, refused: RefusedFit, tmp_path: Path) -> None:
        line = refused(*write_cc3m_list(tmp_path, content))
        assert line.startswith('data.root=')
        assert sentence in line

    @pytest.mark.parametrize(
        ('data', 'file', 'content', 'sentence'),
        first_fast(
            [
                ('COCO', COCO_FILE, '{"images": [{"id": 1', 'is not valid JSON: '),
                ('COCO', COCO_FILE, '{"images": []}', "lacks 'images' with id and file_name, or 'annotations' with"),
                ('VisualGenome', 'region_descriptions.json', '[{"id": 1, "regions"', 'is not valid JSON: '),
                (
                    'VisualGenome',
                    'region_descriptions.json',
                    '[{"id": 1}]',
                    'lacks regions with a phrase: it is not the published file',
                ),
                (
                    'VisualGenome',
                    'image_data.json',
                    '[{"image_id": 1}]',
                    'image_data.json lacks images with image_id and url: it is not the published file',
                ),
                ('Flickr8k', 'Flickr8k.token.txt', '', 'is empty: name a file with a line for each pair'),
                ('Flickr8k', 'Flickr8k.token.txt', 'a.jpg a cat\n', 'is in none of the published forms'),
                ('Flickr30k', 'dataset_flickr30k.json', '{"images": [', 'is not valid JSON: '),
                ('Flickr30k', 'dataset_flickr30k.json', '{"images": [{"filename": "a"}]}', "it is not Karpathy's file"),
            ],
            2,
        ),
    )
    def test_a_malformed_file_of_annotations(
        self, data: str, file: str, content: str, sentence: str, refused: RefusedFit, tmp_path: Path
    ) -> None:
        for write in (write_coco, write_visual_genome, partial(write_flickr, form='Flickr8k.token.txt')):
            write(tmp_path, {1: [CAPTION], 2: [CAPTION]})
        (tmp_path / file).write_text(content)
        line = refused(f'--data={data}', f'--data.root={tmp_path}')
        assert line.startswith(f'data.root={str(tmp_path)!r}: ')
        assert sentence in line


# --- single pairs ---------------------------------------------------------------------------------------------------


class LogLines(logging.Handler):
    """Keeps the lines of a log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Run(NamedTuple):
    """A run over a table with some bad rows."""

    steps: int
    log: list[str]
    data: PairsDataModule


ROWS = {  # number of each special row of the CSV
    'truncated': 3,
    'bomb': 4,
    'long caption': 5,
    'caption that just fits': 6,
    'empty caption': 18,
}


def write_bad_rows(folder: Path) -> tuple[str, ...]:
    captions = {'long caption': 'a dog ' * 9, 'caption that just fits': 'a dog a dog a dog', 'empty caption': ' '}
    special = {row: name for name, row in ROWS.items()}
    lines = [f'{row}.png,{captions.get(special.get(row, ""), CAPTION)}' for row in range(19)]
    for row in range(19):
        write_picture(folder / f'{row}.png', row % 8)
    (folder / f'{ROWS["truncated"]}.png').write_bytes(truncated_photo())
    (folder / f'{ROWS["bomb"]}.png').write_bytes(bomb())
    (folder / 'pairs.csv').write_text('\n'.join(['image,caption', *lines]) + '\n')
    return '--data=CSVPairs', f'--data.train={folder / "pairs.csv"}'


@pytest.fixture(scope='module', params=['new', 'cached'])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over bad rows, with an empty or a full cache."""
    folder = tmp_path_factory.mktemp('rows')
    file = write_bad_rows(folder)
    if request.param == 'cached':
        fit(folder, *file)
    log = LogLines()
    logging.getLogger('datamodules').addHandler(log)
    command = fit(folder, *file)
    logging.getLogger('datamodules').removeHandler(log)
    return Run(command.trainer.global_step, log.lines, command.datamodule)


class TestSinglePairs:
    def test_the_run_finishes(self, run: Run) -> None:
        assert run.steps == STEPS_PER_EPOCH

    def test_an_empty_caption_is_dropped_and_counted(self, run: Run) -> None:
        (line,) = (line for line in run.log if 'empty' in line)
        assert line.startswith('data.train=')
        assert line.endswith('1 of 19 captions are empty and left out')
        assert len(run.data.table) == 18

    def test_unreadable_images_are_dropped_and_counted(self, run: Run) -> None:
        (line,) = {line for line in run.log if 'cannot be read' in line}
        assert line == "2 of 18 images cannot be read and are left out (1 damaged, 1 too large); first: '3.png'"
        assert run.data.partition.rows(DROPPED).tolist() == [ROWS['truncated'], ROWS['bomb']]

    def test_a_caption_longer_than_the_context_is_cut_and_counted_once(self, run: Run) -> None:
        (line,) = (line for line in run.log if 'context' in line)
        assert line == (
            '1 of 18 captions have more than data.context_length=8 tokens and are cut there: '
            'shorten them, or choose a model.architecture with a longer context'
        )

    def test_logs_nothing_else(self, run: Run) -> None:
        assert len(set(run.log)) == 3


# --- poisons --------------------------------------------------------------------------------------------------------


def badnets_argument(*each: dict[str, Any], kind: str = 'BadNet') -> str:
    usual = {'target': 'plain bar', 'captions': 'templates'}
    attacks = [{'class_path': kind, 'init_args': {**usual, **arguments}} for arguments in each]
    return f'--data.attacks={json.dumps({f"patch_{number}": attack for number, attack in enumerate(attacks)})}'


class TestAttacks:
    @pytest.mark.parametrize(
        ('arguments', 'sentence'),
        first_fast(
            [
                (
                    {'count': 2, 'target': 'plain bra'},
                    "target 'plain bra' is not one of the 24 classes: did you mean plain bar",
                ),
                (
                    {'count': 2, 'target': 'striped star', 'captions': 'training'},
                    "0 training captions name 'striped star', too few for 2 poisons: set captions: templates",
                ),
                ({'rate': 0.001}, 'rate=0.001 of 16 pairs rounds to no poison: raise it to at least 0.062, give count'),
                ({'rate': 1.5}, 'rate must be a fraction of the clean pairs in (0, 1], or 0 for none, got 1.5'),
            ],
            2,
        ),
        ids=['unknown target class', 'target class that no caption names', 'rate that gives no poison', 'rate above 1'],
    )
    def test_an_unusable_argument(self, arguments: dict[str, Any], sentence: str, refused: RefusedFit) -> None:
        assert sentence in refused(badnets_argument(arguments))

    def test_more_poisons_in_total_than_pairs(self, refused: RefusedFit) -> None:
        line = refused(badnets_argument(*[{'count': 9, 'mode': 'replace', 'source': 'train'}] * 2))
        assert line.startswith("attack 'patch_1': 9 poisons need as many images") and 'train has 6 to spare' in line

    def test_a_pattern_that_is_not_a_picture(self, refused: RefusedFit, tmp_path: Path) -> None:
        (tmp_path / 'notes.txt').write_text('no picture')
        line = refused(badnets_argument({'count': 2, 'pattern': f'{tmp_path}/notes.txt'}, kind='Blended'))
        assert line.startswith("pattern '") and line.endswith('give the path of a JPEG or PNG file.')


# --- batches, pools and arguments -----------------------------------------------------------------------------------


class TestLabeledSets:
    def test_without_a_split_or_a_class(self, refused: RefusedFit, tmp_path: Path) -> None:
        animals = ('--data.labeled.animals=ClassFolders', f'--data.labeled.animals.root={tmp_path}/animals')
        for name in ('train/cat', 'train/dog'):
            write_picture(tmp_path / 'animals' / name / '0.png', 1)
        assert "/animals' has no folder test or val: put <class>/*.jpg into it" in refused(*animals)
        write_picture(tmp_path / 'animals/test/cat/0.png', 2)
        probe = '--callbacks.linear_probe=LinearProbe'
        assert "has images of 1 of the 2 classes, and none of 'dog': complete it" in refused(*animals, probe)

    def test_with_nothing_to_train_a_probe_on(self, refused: RefusedFit, tmp_path: Path) -> None:
        captions_alone = write_csv_pairs(tmp_path, 'image,caption\n0.jpg,a dog\n1.jpg,a cat\n')
        said = refused(*captions_alone, '--data.batch_size=2', '--callbacks.linear_probe=LinearProbe')
        assert said.startswith('callbacks.linear_probe needs labeled pictures to train on: give data.labeled a set')


class TestArguments:
    def test_a_neighbor_pool_smaller_than_a_batch(self, refused: RefusedFit) -> None:
        line = refused(*SAFECLIP, '--model.pool_size=7')
        assert line.startswith('model.pool_size=7 is smaller than a batch of 8')
        assert 'take at least data.batch_size, or auto' in line

    def test_a_tile_without_rows(self, refused: RefusedFit) -> None:
        assert refused('--model.tile_size=0') == 'model.tile_size must be at least 1, got 0.'

    def test_a_batch_size_that_ranks_cannot_share(self, refused: RefusedFit, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PairsDataModule, 'prepare_data', pytest.fail)  # which may take hours
        line = refused('--data.batch_size=7', '--trainer.devices=2', '--trainer.num_nodes=3')
        assert line == 'data.batch_size=7 must be a multiple of the 6 processes.'

    def test_another_context_length_than_the_model(self, refused: RefusedFit) -> None:
        line = refused('--data.context_length=20')
        assert line == 'data.context_length=20 is not the 8 tokens that model.architecture takes: leave it null.'

    @pytest.mark.parametrize(
        ('args', 'sentence'),
        first_fast(
            [
                (
                    ['--callbacks.repartion=null'],
                    'unrecognized option --callbacks.repartion: did you mean --callbacks.repartition?',
                ),
                (['--model.lrr=0.1'], 'did you mean --model.lr?'),
                (['--data.rowz=3'], 'did you mean --data.rows?'),
                (['--callbacks.ledger.treshold=0.5'], 'did you mean --callbacks.ledger.threshold?'),
            ],
            1,
        ),
        ids=['callback slot', 'argument of the model', 'argument of the data', 'argument of a slot'],
    )
    def test_an_unknown_name(self, args: list[str], sentence: str, refused: RefusedFit) -> None:
        assert sentence in refused(*args)


# --- the split ------------------------------------------------------------------------------------------------------


class TestSafeSet:
    @pytest.mark.parametrize('argument', ['cap', 'first_fraction'])
    def test_that_is_certain_to_be_empty(self, argument: str, refused: RefusedFit) -> None:
        line = refused(*SAFECLIP, '--callbacks.repartition.min_fraction=0', f'--callbacks.repartition.{argument}=0')
        assert line == f'callbacks.repartition.{argument}=0 would leave the safe side empty: raise it.'

    @pytest.mark.parametrize(
        ('argument', 'sentence'),
        first_fast(
            [
                ('threshold=0.9', 'so none is safe: lower callbacks.repartition.threshold or raise'),
                ('first_fraction=0.01', 'rounds to no safe pair: raise callbacks.repartition.first_fraction, cap or'),
            ],
            1,
        ),
        ids=['pairs that are all alike', 'fraction of less than a pair'],
    )
    def test_that_turns_out_to_be_empty_ends_the_run(
        self, argument: str, sentence: str, refused: RefusedFit, tmp_path: Path
    ) -> None:
        alike = write_csv_pairs(tmp_path, 'image,caption\n' + '0.jpg,a dog\n' * 16)
        split = ['--callbacks.repartition.min_fraction=0', f'--callbacks.repartition.{argument}']
        # Similarities are first measured after the unimodal and the slow epoch.
        assert sentence in refused(*alike, *SAFECLIP, *split, '--trainer.max_epochs=3', after=2 * STEPS_PER_EPOCH)


class Streamed(IterableDataset[Any]):
    """A stream of pairs without row numbers."""

    def __iter__(self) -> Iterator[Any]:
        yield from ()


class StreamedPairs(L.LightningDataModule):
    """A datamodule without a table."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Streamed())


class TestRemoteShards:
    def test_an_address_that_needs_a_package_that_is_not_there(self, refused: RefusedFit) -> None:
        fsspec.register_implementation('absent', 'absent.FileSystem', errtxt='Install absent to read it')
        line = refused('--data=WebDatasetPairs', '--data.shards=absent://bucket/{0..9}.tar')
        assert line == (
            "data.shards: 'absent://bucket/0.tar' needs a package that is not installed: Install absent to read it."
        )

    def test_a_bucket_without_rights(self, refused: RefusedFit) -> None:
        with serve({}) as server:
            server.status = 403
            line = refused('--data=CC3M', f'--data.root={server.address}/{{0..9}}.tar')
        assert line.startswith(f"data.root: '{server.address}/0.tar' may not be read (ClientResponseError: ")
        assert line.endswith('give fsspec the rights, see docs/data.md.')

    def test_a_limit_that_is_no_number(self, refused: RefusedFit) -> None:
        line = refused('--data=WebDatasetPairs', '--data.shards=memory://0.tar', '--data.cache_limit=much')
        assert line == "data.cache_limit='much' is no number of bytes: write it as in 200GB."


@pytest.mark.filterwarnings('ignore:You defined a `validation_step` but have no `val_dataloader`')
class TestStreams:
    def test_shards_given_as_a_stream(self, refused: RefusedFit) -> None:
        line = refused('--data=WebDatasetPairs', *SAFECLIP, '--data.shards=pipe:cat a.tar')
        assert line.startswith("data.shards='pipe:cat a.tar' is a stream, but SafeCLIP needs row ids")
        assert line.endswith('name these or their addresses.')

    def test_a_datamodule_without_a_table_on_the_command_line(self, refused: RefusedFit) -> None:
        name = f'{__name__}.StreamedPairs'
        line = refused(f'--data={name}', *SAFECLIP)
        assert line == f'data: {name} is not the name of a class that fits there.'

    @pytest.mark.parametrize(
        ('given', 'fix'),
        [
            ({'datamodule': StreamedPairs()}, 'such as a subclass of PairsDataModule'),
            ({'train_dataloaders': DataLoader(Streamed())}, 'such as a subclass of PairsDataModule'),
        ],
        ids=['datamodule', 'loader'],
    )
    def test_from_python(self, given: dict[str, Any], fix: str, tmp_path: Path, steps: list[int]) -> None:
        safeclip = SafeCLIP(architecture=tiny_architecture(tmp_path))
        with pytest.raises(ValueError, match='row number for each pair, which a stream does not have') as error:
            trainer().fit(safeclip, **given)
        assert fix in str(error.value) and '\n' not in str(error.value) and not steps

    def test_from_python_without_a_pool(self, tmp_path: Path, steps: list[int]) -> None:
        safeclip = SafeCLIP(architecture=tiny_architecture(tmp_path), pool_size=0)
        with pytest.raises(ValueError, match=r'a split needs a row number .* without callbacks\.repartition'):
            trainer(callbacks=[SafeRiskyRepartition()], max_epochs=8).fit(safeclip, StreamedPairs())
        assert not steps


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoint of a SafeCLIP run of one epoch on 16 pairs."""
    folder = tmp_path_factory.mktemp('run')
    fit(folder, *SAFECLIP).trainer.save_checkpoint(folder / 'run.ckpt')
    return str(folder / 'run.ckpt')


class TestWeights:
    def test_a_partition_of_another_dataset(self, refused: RefusedFit, checkpoint: str) -> None:
        line = refused(*SAFECLIP, '--data.rows=24', '--trainer.max_epochs=2', f'--ckpt_path={checkpoint}')
        assert line.startswith('the checkpoint holds a partition of 16 pairs')
        assert line.endswith('or start from its weights with model.init_from instead of ckpt_path.')

    @pytest.mark.parametrize('argument', ['ckpt_path', 'model.init_from'])
    def test_a_checkpoint_of_another_architecture(
        self, argument: str, refused: RefusedFit, checkpoint: str, tmp_path: Path
    ) -> None:
        other = tiny_architecture(tmp_path, 'wider', width=12)
        line = refused(*SAFECLIP, f'--model.architecture={other}', f'--{argument}={checkpoint}')
        assert line.startswith(f'{argument} holds weights of another architecture')
        assert line.endswith('set model.architecture to the one that the checkpoint was trained with.')

    @pytest.mark.parametrize(
        ('args', 'sentence'),
        first_fast(
            [
                (
                    ['--model.architecture=RN50', '--model.pretrained=opanai'],
                    "model.pretrained='opanai' is neither a file nor a tag of RN50. Its tags: openai, yfcc15m, cc12m.",
                ),
                (
                    ['--model.pretrained=openai'],
                    "model.pretrained='openai' is neither a file nor a tag of tiny. Its tags: none, so leave it null.",
                ),
                (
                    ['--model.architecture=nowhere.json'],
                    "model.architecture='nowhere.json' does not exist: give the path of a JSON file or the name of a "
                    f'shipped one: {", ".join(sorted(path.name for path in SHIPPED.glob("*.json")))}.',
                ),
            ],
            1,
        ),
        ids=['pretrained tag', 'pretrained tag of a custom model', 'JSON of a model'],
    )
    def test_that_do_not_exist(self, args: list[str], sentence: str, refused: RefusedFit) -> None:
        assert refused(*args) == sentence


def test_an_interval_of_evaluation_that_no_epoch_reaches(refused: RefusedFit) -> None:
    line = refused(*TOY, '--trainer.val_check_interval=1000')
    assert line.startswith('trainer.val_check_interval=1000 is larger than the 2 batches of an epoch: lower it')
