from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from datamodules.usage_error import UsageError
from experiments.config_files import SHIPPED, find_config, run_name, with_bases, without_base
from tests.experiments.conftest import parse


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with none of the shipped files in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, name: str, text: str = '') -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class TestFindConfig:
    @pytest.mark.parametrize('name', ['safeclip_pairs.yaml', 'attacks/wanet.yaml', 'grids/cifar10_ladder/more_1.yaml'])
    def test_a_shipped_file_is_found_by_its_name(self, name: str) -> None:
        assert find_config(name, Path()) == SHIPPED / name

    def test_a_file_in_the_working_directory_wins(self, folder: Path) -> None:
        mine = write(folder, 'attacks/wanet.yaml')
        assert find_config('attacks/wanet.yaml', Path()) == mine

    def test_a_path_outside_both_is_taken_as_it_is(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        elsewhere = write(tmp_path_factory.mktemp('elsewhere'), 'mine.yaml')
        assert find_config(str(elsewhere), Path()) == elsewhere

    @pytest.mark.parametrize(
        ('name', 'hint'),
        [
            ('safeclip_pair.yaml', r'did you mean safeclip_pairs\.yaml, '),
            ('attacks/wannet.yaml', r'did you mean attacks/wanet\.yaml, '),
            ('wanet.yaml', r'did you mean attacks/wanet\.yaml\?'),  # the same name in another folder is enough
            ('experiments/safeclip_cc3m.yaml', r'did you mean safeclip_cc3m\.yaml\?'),
            ('xyzzy.yaml', r'give its path, or the name of a shipped file\.'),
        ],
    )
    def test_an_unknown_name_is_refused_with_similar_ones(self, name: str, hint: str) -> None:
        with pytest.raises(UsageError, match=f'^config: File does not exist: {name}; {hint}'):
            find_config(name, Path())

    @pytest.mark.parametrize(
        ('name', 'sentence'),
        [
            ('', 'give a file, as in'),
            ('--name=a', 'give a file, as in'),
            ('data', 'data is a folder: name a YAML file in'),
        ],
    )
    def test_what_is_no_file_is_refused(self, name: str, sentence: str) -> None:
        with pytest.raises(UsageError, match=sentence):
            find_config(name, Path())

    def test_a_grid_is_not_suggested(self) -> None:
        with pytest.raises(UsageError, match='shipped file'):
            find_config('table_10.yaml', Path())


class TestBases:
    @pytest.mark.parametrize(
        'block',
        [
            'base: [a.yaml, b.yaml]\n',
            'base:\n- a.yaml\n- b.yaml\n',
            'base: [\n  a.yaml,\n  b.yaml]\n',
            'base: [\n  a.yaml,\n  b.yaml,\n]\n',
            'base:\n# first\n- a.yaml\n\n- b.yaml\n',
            '"base" : [a.yaml, b.yaml]\n',
        ],
    )
    def test_come_in_order_before_the_file(self, folder: Path, block: str) -> None:
        a, b = write(folder, 'a.yaml'), write(folder, 'b.yaml')
        mine = write(folder, 'mine.yaml', f'# about\n{block}name: mine\n')
        assert with_bases('mine.yaml') == [str(a), str(b), str(mine)]
        assert without_base(mine.read_text()).split() == ['#', 'about', 'name:', 'mine']

    def test_have_bases_of_their_own(self, folder: Path) -> None:
        write(folder, 'a.yaml', 'base: [b.yaml]')
        write(folder, 'b.yaml')
        write(folder, 'mine.yaml', 'base: [a.yaml]')
        assert [Path(path).name for path in with_bases('mine.yaml')] == ['b.yaml', 'a.yaml', 'mine.yaml']

    def test_are_looked_for_beside_the_file_and_then_among_the_shipped_ones(self, folder: Path) -> None:
        write(folder, 'coco.yaml')  # in the working directory, where bases are not looked for
        beside = write(folder, 'own/coco.yaml')
        write(folder, 'own/mine.yaml', 'base: [coco.yaml, methods/clip.yaml]')
        assert with_bases('own/mine.yaml')[:2] == [str(beside), str(SHIPPED / 'methods/clip.yaml')]

    def test_can_stand_in_yaml_text(self) -> None:
        text = 'base: [methods/clip.yaml]\nname: mine'
        assert with_bases(text) == [str(SHIPPED / 'methods/clip.yaml'), text]

    @pytest.mark.parametrize('config', ['{trainer: {max_epochs: 5}}', 's3://bucket/mine.yaml'])
    def test_text_and_urls_are_left_to_the_parser(self, config: str) -> None:
        assert with_bases(config) == [config]

    @pytest.mark.parametrize('text', ['{base: [a.yaml], name: mine}', '{name: mine, base: [a.yaml]}'])
    def test_can_stand_in_a_mapping_in_braces(self, folder: Path, text: str) -> None:
        a = write(folder, 'a.yaml')
        assert with_bases(text) == [str(a), text]
        assert yaml.safe_load(without_base(text)) == {'name': 'mine'}

    def test_can_be_all_that_a_file_has(self) -> None:
        assert yaml.safe_load(without_base('# about\nbase: [a.yaml]\n')) == {}

    def test_are_found_behind_a_byte_order_mark(self, folder: Path) -> None:
        a, mine = write(folder, 'a.yaml'), write(folder, 'mine.yaml', '\ufeffbase: [a.yaml]\n')
        assert with_bases('mine.yaml') == [str(a), str(mine)]

    def test_of_a_file_with_mistakes_are_not_looked_for(self, folder: Path) -> None:
        write(folder, 'mine.yaml', 'base: [a.yaml\n')
        with pytest.raises(UsageError, match=r'mine\.yaml is not YAML: line 2'):
            with_bases('mine.yaml')

    @pytest.mark.parametrize('text', ['', '# nothing\n', 'null\n'])
    def test_a_file_may_be_empty(self, text: str) -> None:
        assert without_base(text) == '{}'

    def test_a_circle_through_another_folder_is_noticed(self, folder: Path) -> None:
        write(folder, 'mine.yaml', 'base: [deeper/other.yaml]')
        write(folder, 'deeper/other.yaml', 'base: [../mine.yaml]')
        with pytest.raises(UsageError, match=r'other\.yaml -> .*mine\.yaml: a file cannot build on itself'):
            with_bases('mine.yaml')

    def test_a_file_that_is_no_text_is_refused(self, folder: Path) -> None:
        (folder / 'mine.yaml').write_bytes(b'\xff\x00')
        with pytest.raises(UsageError, match=r'mine\.yaml cannot be read as a text file'):
            with_bases('mine.yaml')

    def test_the_key_counts_at_the_top_level_alone(self, folder: Path) -> None:
        mine = write(folder, 'mine.yaml', 'data:\n  base: [a.yaml]\n')
        assert with_bases('mine.yaml') == [str(mine)]
        assert without_base(mine.read_text()) == mine.read_text()

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('base: methods/clip.yaml', 'expected a list of files like'),
            ('base: [1]', 'expected a list of files like'),
            ('base: [mine.yaml]', 'mine.yaml -> .*mine.yaml: a file cannot build on itself'),
            ('base: [methods/clap.yaml]', 'File does not exist: methods/clap.yaml; did you mean methods/clip.yaml'),
        ],
    )
    def test_what_cannot_be_a_base_is_refused(self, folder: Path, text: str, message: str) -> None:
        write(folder, 'mine.yaml', text)
        with pytest.raises(UsageError, match=message):
            with_bases('mine.yaml')


class TestRunName:
    @pytest.mark.parametrize(
        ('files', 'name'),
        [
            (['data/coco.yaml', 'methods/safeclip.yaml'], 'safeclip_coco'),
            (['methods/safeclip.yaml', 'data/cc3m.yaml', 'data/cc1m.yaml', 'attacks/wanet.yaml'], 'safeclip_cc1m'),
            (['methods/clip.yaml'], 'clip'),
            (['mine.yaml'], 'run'),
            ([], 'run'),
        ],
    )
    def test_is_made_of_method_and_data(self, files: list[str], name: str) -> None:
        assert run_name(map(Path, files)) == name


class TestCommand:
    def test_names_a_run_after_its_method_and_data(self) -> None:
        config = parse('fit', '--config=data/toy.yaml', '--config=methods/clip.yaml', '--config=attacks/wanet.yaml')
        assert config.name == 'clip_toy'

    @pytest.mark.parametrize('before', [True, False])
    def test_keeps_a_name_that_is_given(self, before: bool) -> None:
        files, given = ['--config=data/toy.yaml', '--config=methods/clip.yaml'], ['--name=mine']
        assert parse('fit', *(given + files if before else files + given)).name == 'mine'

    def test_a_file_builds_on_shipped_ones_and_overrides_them(self, folder: Path) -> None:
        text = 'name: mine\nbase: [data/toy.yaml, methods/safeclip.yaml]\ndata: {init_args: {scene_seed: 7}}\n'
        write(folder, 'mine.yaml', text)
        config = parse('fit', '--config=mine.yaml')
        assert config.name == 'mine'
        assert config.model.class_path.endswith('.SafeCLIP')
        assert config.model.init_args.architecture == 'tiny_toy.json'
        seeds = [attack.init_args.seed for attack in config.data.init_args.attacks.values()]
        assert seeds == [7, 7]  # `${data.init_args.scene_seed}` of the base is this run's

    def test_a_file_may_have_bases_and_nothing_else(self, folder: Path) -> None:
        write(folder, 'mine.yaml', 'base: [data/toy.yaml, methods/safeclip.yaml]\n')
        assert parse('fit', '--config=mine.yaml').model.class_path.endswith('.SafeCLIP')

    def test_tells_a_wrong_name_in_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            parse('fit', '--config=safeclip_pair.yaml')
        assert capsys.readouterr().err.splitlines()[-1].startswith('error: config: File does not exist: safeclip_pair')
