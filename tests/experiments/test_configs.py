from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace

from callbacks.repartition import SafeRiskyRepartition
from datamodules.attacks.base import Poisoning
from datamodules.pictures.augment import CleanView
from datamodules.text.prompts import imagenet_classes
from experiments import cli
from experiments.grid_file import Cell, read_grid
from experiments.parser import Parser
from experiments.subcommands import SLOTS
from lightning_modules.clip import CLIP
from lightning_modules.roclip import RoCLIP
from lightning_modules.safeclip import SafeCLIP
from lightning_modules.unlearnable import MEM
from tests.experiments.conftest import EXPERIMENTS, _fit_parser, instantiate, parse, resolve

NAMED = sorted(path for path in EXPERIMENTS.glob('*.yaml') if path.name != 'defaults.yaml')
DATA = sorted((EXPERIMENTS / 'data').glob('*.yaml'))
METHODS = sorted((EXPERIMENTS / 'methods').glob('*.yaml'))
ATTACKS = sorted((EXPERIMENTS / 'attacks').glob('*.yaml'))
# test_poisoned.py takes steps of these.
REPAIRS = ('finetune', 'cleanclip', 'cleanclip_supervised', 'cleanclip_pretraining', 'par')
PROTECTORS = ('mem', 'em', 'uap')
NO_OVERLAYS = ('data', 'methods', 'grids', 'sweeps', 'report_page')
OVERLAYS = [path for path in sorted(EXPERIMENTS.glob('*/*.yaml')) if path.parent.name not in NO_OVERLAYS]
GRID_ATTACKS = sorted(EXPERIMENTS.glob('grids/*/*.yaml'))
BATCH_SIZES = {'cc3m': 512, 'cc1m': 512, 'cc100k': 512, 'coco': 256, 'visual_genome': 256}  # Table 14 of SafeCLIP
OTHER_PAPERS = ['flickr8k', 'flickr30k', 'named_folders']  # with the settings of the smaller sets above
RATES = {'flickr8k': 0.005, 'named_folders': 0.005}  # SafeCLIP's 0.0005 may give fewer poisons than targets
OWN_PAIRS = ['pairs', 'webdataset']
CIFAR10 = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
AIMS = ('target', 'targets', 'classes', 'swaps')  # arguments of attacks that name classes
SMALL = ['--model.architecture=tiny_toy.json', '--trainer.accelerator=cpu', '--seed_everything=17']


def name(path: Path) -> str:
    return path.relative_to(EXPERIMENTS).as_posix()


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of small towers."""
    file = tmp_path_factory.mktemp('trained') / 'last.ckpt'
    torch.save({'state_dict': CLIP('tiny_toy.json').state_dict()}, file)
    return str(file)


def config_of(*files: str) -> Namespace:
    """The configuration of some files, with towers that are drawn quickly."""
    return resolve(*(f'--config={file}' for file in files), *SMALL)


def composed(data: str, method: str = 'safeclip') -> Namespace:
    return config_of(f'data/{data}.yaml', f'methods/{method}.yaml')


def construct(*files: str, without: tuple[str, ...] = ()) -> Namespace:
    """Everything that some files name, except the trainer and further parts, such as the model, which takes longest."""
    settings = vars(config_of(*files).clone())
    return _fit_parser().instantiate(Namespace(settings | dict.fromkeys(without)))


def differences(before: Any, after: Any, key: str = '') -> dict[str, Any]:
    """Leaves that differ between two configurations, by their dotted key."""
    before, after = (vars(x) if isinstance(x, Namespace) else x for x in (before, after))
    if isinstance(before, dict) and isinstance(after, dict):
        different: dict[str, Any] = {}
        for part in before.keys() | after.keys():
            different |= differences(before.get(part), after.get(part), f'{key}.{part}'.strip('.'))
        return different
    return {} if before == after or key == 'config' else {key: after}


def leaves(config: Any, key: str = '') -> list[str]:
    """Dotted keys that a file sets; a class and the attacks are set as a whole."""
    if not isinstance(config, dict) or 'class_path' in config or key.endswith('.attacks'):
        return [key]
    return [leaf for part, value in config.items() for leaf in leaves(value, f'{key}.{part}'.strip('.'))]


@cache
def attacks_parser() -> Parser:
    """Parses attacks as the command does, and nothing else, which takes a fraction of the time."""
    parser = Parser(allow_abbrev=False)
    parser.add_argument('--data.attacks', type=dict[str, Poisoning | None])
    return parser


def attacks_of(file: str, overlay: Path, *options: str) -> dict[str, Any]:
    """The attacks of a file after those of an overlay and further options, by name."""
    parser, before = attacks_parser(), config_of(file).data.init_args.attacks
    config = Namespace(data=Namespace(attacks=before)).clone()
    config = parser.parse_object({'data': {'attacks': written_in(overlay)}}, config)
    after = parser.parse_args([*options], config).data.attacks
    return {name: vars(attack.init_args) | {'class_path': attack.class_path} for name, attack in after.items()}


def written_in(overlay: Path) -> dict[str, Any]:
    """The attacks as an overlay states them, with the seed of the data that tests use."""
    text = overlay.read_text().replace('${data.init_args.seed}', '17')
    return yaml.safe_load(text)['data']['init_args']['attacks']


@cache
def attacks_alone(overlay: Path) -> dict[str, Any]:
    """The attacks of an overlay on pairs that nothing else poisons."""
    return attacks_of('safeclip_pairs.yaml', overlay)


def agrees(parsed: Any, written: Any) -> bool:
    """Whether a configuration holds what a file states; the file may use the bare name of a class."""
    parsed = vars(parsed) if isinstance(parsed, Namespace) else parsed
    if isinstance(written, list):
        return [*parsed] == written
    if not isinstance(written, dict):
        return parsed == written or (isinstance(written, str) and str(parsed).endswith(f'.{written}'))
    return all(key in parsed and agrees(parsed[key], value) for key, value in written.items())


def classes_in(aim: Any) -> list[str]:
    """Class names in the value of an argument; a number of targets and null name none."""
    if isinstance(aim, dict):
        return [*aim, *aim.values()]
    return [aim] if isinstance(aim, str) else aim if isinstance(aim, list) else []


def classes_of(attacks: dict[str, Any]) -> list[str]:
    """Names of the classes that attacks are about."""
    return [aim for attack in attacks.values() for key in AIMS for aim in classes_in(attack.get(key))]


class TestNamedFiles:
    @pytest.mark.parametrize('path', NAMED, ids=name)
    def test_constructs_what_it_names(self, path: Path) -> None:
        built = construct(name(path))
        method = path.stem.partition('_')[0]
        assert type(built.model) is {'clip': CLIP, 'mem': MEM, 'roclip': RoCLIP, 'safeclip': SafeCLIP}[method]
        assert isinstance(built.callbacks.repartition, SafeRiskyRepartition) == (method == 'safeclip')
        assert built.name == path.stem

    def test_the_trainer_gets_what_every_run_depends_on(self, tmp_path: Path) -> None:
        where = ['--config=safeclip_cc3m.yaml', *SMALL, f'--trainer.default_root_dir={tmp_path}']
        command = instantiate('fit', *where)
        config = command.config.fit
        assert config.trainer.reload_dataloaders_every_n_epochs == 1
        assert config.trainer.use_distributed_sampler is False
        assert config.trainer.num_sanity_val_steps == 0
        checkpoint = config.callbacks.checkpoint.init_args
        assert checkpoint.save_on_train_epoch_end is True and checkpoint.save_last is True
        assert checkpoint.save_top_k == 1 and not checkpoint.save_on_exception
        assert [logger.class_path.split('.')[-1] for logger in config.trainer.logger] == ['WandbRun']
        assert sum(isinstance(callback, SafeRiskyRepartition) for callback in command.trainer.callbacks) == 1

    def test_the_showcase_is_the_sum_of_its_parts(self) -> None:
        changed = differences(composed('cc3m'), config_of('safeclip_cc3m.yaml'))
        assert changed == {'model.init_args.slow_lr': 'auto'}  # for its 6,481 steps the same number

    @pytest.mark.parametrize('data', ['toy', 'cifar10'])
    def test_both_methods_see_the_same_poisons(self, data: str) -> None:
        plain, safe = (config_of(f'{method}_{data}.yaml') for method in ('clip', 'safeclip'))
        changed = differences(plain.data, safe.data)
        assert {key for key in changed if not key.startswith('init_args.canar')} == {'init_args.safe_weight'}
        assert not differences(plain.trainer, safe.trainer)

    def test_toy_poisons_are_drawn_by_the_seed_of_the_scenes(self) -> None:
        attacks = resolve('--config=safeclip_toy.yaml', '--data.scene_seed=3').data.init_args.attacks
        assert [attack.init_args.seed for attack in attacks.values()] == [3, 3]

    @pytest.mark.parametrize('subcommand', ['validate', 'test', 'predict'])
    def test_can_be_measured_too(self, subcommand: str) -> None:
        config = parse(subcommand, '--config=safeclip_toy.yaml', '--allow_untrained=true')
        assert config.callbacks.attack_success is not None


class TestData:
    @pytest.mark.parametrize('path', DATA, ids=name)
    def test_constructs_what_it_names(self, path: Path) -> None:
        built = construct(name(path), 'methods/safeclip.yaml')
        assert built.data.seed == 17
        assert built.name == f'safeclip_{path.stem}'

    @pytest.mark.parametrize('data', [*BATCH_SIZES, *OTHER_PAPERS])
    def test_has_the_settings_of_the_paper(self, data: str) -> None:
        config = resolve(f'--config=data/{data}.yaml', '--config=methods/safeclip.yaml')
        model = config.model.init_args
        assert (model.architecture, model.lr) == ('RN50', 5e-4)
        assert (model.unimodal_epochs, model.slow_epochs, model.slow_lr) == (5, 1, 5e-6)
        assert config.data.init_args.batch_size == BATCH_SIZES.get(data, 256)
        assert (config.trainer.max_epochs, config.trainer.precision) == (48, 'bf16-mixed')
        tdpa, badnet = (config.data.init_args.attacks[attack].init_args for attack in ('tdpa', 'badnet'))
        assert tdpa.targets == 16
        assert tdpa.rate == badnet.rate == RATES.get(data, 0.0005)
        assert tdpa.source == badnet.source == 'heldout'

    @pytest.mark.parametrize('data', ['coco', 'cc1m', 'cifar10'])  # stated, inherited from a base, other arguments
    def test_poisons_are_drawn_by_the_seed_of_the_data(self, data: str) -> None:
        attacks = composed(data).data.init_args.attacks
        assert [attack.init_args.seed for attack in attacks.values()] == [17, 17]

    def test_reads_what_the_paper_reads_of_each_set(self) -> None:
        data = {data: composed(data).data.init_args for data in BATCH_SIZES}
        assert [data[subset].subset for subset in ('cc3m', 'cc1m', 'cc100k')] == [None, 'CC1M', 'CC100K']
        assert (data['coco'].year, data['coco'].captions) == (2014, 'one')
        assert data['visual_genome'].regions == 5

    @pytest.mark.parametrize('data', OWN_PAIRS)
    def test_the_users_own_pairs_are_not_poisoned(self, data: str) -> None:
        config = composed(data)
        assert config.data.init_args.attacks == {}
        assert config.callbacks.zero_shot is not None  # of labeled pictures that are added
        assert config.callbacks.attack_success is not None  # of an attack that an overlay adds


class TestMethods:
    def test_may_stand_before_the_data(self) -> None:
        assert not differences(composed('coco'), config_of('methods/safeclip.yaml', 'data/coco.yaml'))

    @pytest.mark.parametrize('method', REPAIRS)
    def test_makes_the_views_that_its_steps_take(self, method: str) -> None:
        built = construct('data/toy.yaml', f'methods/{method}.yaml')
        views = built.model.sides(0)['cross_modal']
        assert len(built.data.view_makers) == len(built.data.caption_rewriters) == views
        assert isinstance(built.model, CLIP) and built.callbacks.repartition is None

    @pytest.mark.parametrize('path', [path for path in METHODS if path.stem not in (*REPAIRS, *PROTECTORS)], ids=name)
    def test_trains_a_step(self, path: Path, trained: str, tmp_path: Path) -> None:
        command = self.take_a_step(path, trained, tmp_path)
        assert command.trainer.global_step == 1
        assert torch.isfinite(command.trainer.callback_metrics['train/loss'])

    @pytest.mark.parametrize('method', PROTECTORS)
    def test_makes_noise_for_a_batch(self, method: str, trained: str, tmp_path: Path) -> None:
        path = EXPERIMENTS / f'methods/{method}.yaml'
        command = self.take_a_step(path, trained, tmp_path, '--model.surrogate_steps=0', '--model.noise_steps=2')
        metrics = command.trainer.callback_metrics
        assert torch.isfinite(metrics['train/noise_loss']) and ('train/words_after' in metrics) == (method == 'mem')

    def take_a_step(self, path: Path, trained: str, folder: Path, *options: str) -> Any:
        folders = [f'--trainer.default_root_dir={folder}', f'--data.cache_dir={folder}']
        few = ['--data.rows=32', '--data.heldout_rows=32', '--data.batch_size=16', '--data.attacks={}']
        quiet = ['--trainer.callbacks=null', *(f'--trainer.{bar}=false' for bar in ('enable_progress_bar', 'logger'))]
        files = ['--config=data/toy.yaml', f'--config={name(path)}', f'--model.init_from={trained}']  # for repairs
        once = ['--trainer.fast_dev_run=1', '--trainer.log_every_n_steps=1']
        return cli.main(['fit', *files, *SMALL, *folders, *few, *quiet, *once, *options])


class TestOverlays:
    @pytest.mark.parametrize('path', OVERLAYS, ids=name)
    def test_changes_what_it_says_and_nothing_else(self, path: Path) -> None:
        method = path.stem.partition('_')[0]
        of_others = method in ('roclip', 'mem')
        base = ['data/cc3m.yaml', f'methods/{method}.yaml'] if of_others else ['safeclip_cc3m.yaml']
        before, after = config_of(*base), config_of(*base, name(path))
        changed = differences(before, after)
        stated = leaves(yaml.safe_load(path.read_text()))
        assert changed or path.stem == 'recommended'
        # A dictionary that was null before changes as a whole.
        assert all(any(key.startswith(leaf) or leaf.startswith(f'{key}.') for leaf in stated) for key in changed)
        without = tuple(part for part in ('model', 'data') if not any(key.startswith(part) for key in changed))
        built = construct(*base, name(path), without=without)
        assert all(getattr(built, part) is not None for part in {'model', 'data'} - {*without})

    @pytest.mark.parametrize('path', GRID_ATTACKS, ids=name)
    def test_attacks_of_a_grid_can_be_constructed(self, path: Path) -> None:
        built = construct('clip_cifar10.yaml', name(path), without=('model',))
        assert all(any(part.startswith(attack) for part in built.data.attacks) for attack in written_in(path))

    def test_no_attack_is_none(self) -> None:
        assert construct('clip_toy.yaml', 'attacks/none.yaml').data.attacks == {}

    def test_the_control_differs_in_the_split_alone(self) -> None:
        run, control = config_of('safeclip_cc3m.yaml'), config_of('safeclip_cc3m.yaml', 'ablations/no_repartition.yaml')
        assert differences(run, control) == {'callbacks.repartition': None}

    def test_the_recommended_preset_undoes_the_others(self) -> None:
        presets = 'presets/as_released.yaml', 'presets/paper.yaml', 'presets/recommended.yaml'
        changed = differences(config_of('safeclip_cc3m.yaml'), config_of('safeclip_cc3m.yaml', *presets))
        assert changed == {'data.init_args.image_views.init_args.blur': 1.0}  # views of pictures suit their size

    @pytest.mark.parametrize('preset', ['recommended', 'paper', 'as_released'])
    def test_a_preset_leaves_nothing_of_the_method_to_the_file_before_it(self, preset: str) -> None:
        stated = yaml.safe_load((EXPERIMENTS / f'presets/{preset}.yaml').read_text())
        split = {*inspect.signature(SafeRiskyRepartition).parameters} - {'tol', 'backend'}
        assert split <= stated['callbacks']['repartition']['init_args'].keys()
        method = {*inspect.signature(SafeCLIP).parameters} - {'kwargs'}
        assert method | {'views'} <= stated['model']['init_args'].keys()
        assert {'order', 'safe_weight'} <= stated['data']['init_args'].keys()

    @pytest.mark.parametrize('preset', ['roclip_paper', 'roclip_as_released'])
    def test_a_preset_of_roclip_says_all_that_decides_its_runs(self, preset: str) -> None:
        stated = yaml.safe_load((EXPERIMENTS / f'presets/{preset}.yaml').read_text())
        method = {*inspect.signature(RoCLIP).parameters} - {'kwargs'}
        assert method | {'lr', 'views'} <= stated['model']['init_args'].keys()
        assert (stated['model']['init_args']['match_every'], stated['trainer']['max_epochs']) == (2, 24)

    def test_canaries_go_with_any_pairs(self) -> None:
        built = construct('safeclip_pairs.yaml', 'presets/canaries.yaml', without=('model',)).data
        assert [*built.canaries] == ['place', 'patch', 'waves', 'copies', 'mark']
        assert sum(canary.amount(1_000_000) for canary in built.canaries.values()) == 2500

    def test_the_paper_slows_down_to_a_hundredth(self) -> None:
        model = config_of('safeclip_cc3m.yaml', 'presets/paper.yaml').model.init_args
        assert model.slow_lr == pytest.approx(0.01 * model.lr)


ARENA = read_grid(EXPERIMENTS / 'grids/flickr8k_arena.yaml')


class TestGrids:
    @pytest.mark.parametrize(
        'cell', [cell for cell in ARENA.cells() if cell.data == 'mem3'], ids=lambda cell: cell.method
    )
    def test_a_counter_measure_can_be_constructed_and_reads_the_protected_pairs(self, cell: Cell) -> None:
        config = resolve(*ARENA.command(cell)[1:])
        data = _fit_parser().instantiate(Namespace(data=config.data)).data
        assert data.root == 'protected/mem3' and data.heldout_split == 'test'
        views = (*data.view_makers, *data.caption_rewriters)
        is_changed = any(view is not None and not isinstance(view, CleanView) for view in views)
        assert is_changed and config.callbacks.retrieval is not None


class TestAttacks:
    @pytest.mark.parametrize('overlay', ATTACKS, ids=name)
    def test_are_what_the_overlay_says_about_classes_of_imagenet(self, overlay: Path) -> None:
        attacks, written, known = attacks_alone(overlay), written_in(overlay), imagenet_classes()
        assert attacks.keys() == written.keys()
        for attack, values in written.items():
            assert agrees(attacks[attack], {'class_path': values['class_path'], **values['init_args']})
        assert all(known.count(aim) == 1 for aim in classes_of(attacks))

    @pytest.mark.parametrize('overlay', ['badnet', 'badnet_cleanclip', 'tdpa'])  # cifar10.yaml has both names
    def test_leave_nothing_of_an_attack_of_the_same_name(self, overlay: str) -> None:
        path = EXPERIMENTS / f'attacks/{overlay}.yaml'
        assert attacks_of('safeclip_cifar10.yaml', path) == attacks_alone(path)

    @pytest.mark.parametrize(
        ('overlay', 'key', 'aim'),
        [
            ('label_consistent', 'label_consistent.target', 'ship'),
            ('parallel_all2all', 'parallel.targets', ['ship', 'frog', 'cat']),
            ('tdpa', 'tdpa.classes', [*CIFAR10]),
            ('class_swap', 'class_swap.swaps', {'ship': 'frog'}),
        ],
    )
    def test_can_be_aimed_at_classes_of_another_set(self, overlay: str, key: str, aim: Any) -> None:
        path = EXPERIMENTS / f'attacks/{overlay}.yaml'
        option = f'--data.attacks.{key}={aim if isinstance(aim, str) else json.dumps(aim)}'
        attacks = attacks_of('safeclip_cifar10.yaml', path, option)
        assert {*classes_of(attacks)} <= {*CIFAR10}
        assert all(changed.startswith(key) for changed in differences(attacks_alone(path), attacks))

    def test_are_those_of_the_command(self) -> None:
        path, aim = EXPERIMENTS / 'attacks/badnet.yaml', '--data.attacks.badnet.target=ship'
        files = ['--config=clip_cifar10.yaml', f'--config={name(path)}']
        attack = resolve(*files, *SMALL, aim).data.init_args.attacks['badnet']
        expected = {'badnet': vars(attack.init_args) | {'class_path': attack.class_path}}
        assert attacks_of('clip_cifar10.yaml', path, aim) == expected


def test_every_slot_is_named_in_the_defaults() -> None:
    assert list(yaml.safe_load((EXPERIMENTS / 'defaults.yaml').read_text())['callbacks']) == list(SLOTS)
