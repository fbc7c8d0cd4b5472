from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from callbacks.repartition import SafeRiskyRepartition
from datamodules.attacks.base import Poisoning
from datamodules.pictures import scenes
from datamodules.text.prompts import imagenet_classes
from experiments import cli
from experiments.parser import Parser
from lightning_modules.clip import CLIP
from lightning_modules.safeclip import SafeCLIP
from tests.experiments.conftest import EXPERIMENTS, instantiate, parse, resolve

RUNS = sorted(path for path in EXPERIMENTS.glob('*.yaml') if path.name != 'defaults.yaml')
OVERLAYS = sorted(path for path in EXPERIMENTS.glob('*/*.yaml') if path.parent.name != 'grids')
ATTACKS = [path for path in OVERLAYS if path.parent.name == 'attacks']
METHODS = ('clip', 'safeclip')
PAPER = {'cc3m': 512, 'cc1m': 512, 'cc100k': 512, 'coco': 256, 'visual_genome': 256}  # batch sizes, Table 14
OTHERS = ['flickr8k', 'flickr30k', 'named_folders']  # of other papers, with the settings of the smaller of these
RATES = {'flickr8k': 0.005, 'named_folders': 0.005}  # the paper's may be less than a poison for each target
CLASSES = {  # of the sets whose zero-shot classifier does not answer with ImageNet's
    'cifar10': ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'),
    'toy': scenes.CLASSES,
    'named_folders': ('Abhishek Bachan', 'Alex Rodriguez', 'Ali Landry'),  # whoever has a folder
}
AIMS = ('target', 'targets', 'classes', 'swaps')  # arguments that name classes
Construct = Callable[..., cli.CommandLine]


def name(path: Path) -> str:
    return path.relative_to(EXPERIMENTS).as_posix()


def differences(before: Any, after: Any, key: str = '') -> dict[str, Any]:
    """Leaves that differ between two configurations, by their dotted key."""
    before, after = (vars(x) if isinstance(x, Namespace) else x for x in (before, after))
    if isinstance(before, dict) and isinstance(after, dict):
        found: dict[str, Any] = {}
        for part in before.keys() | after.keys():
            found |= differences(before.get(part), after.get(part), f'{key}.{part}'.strip('.'))
        return found
    return {} if before == after or key == 'config' else {key: after}


def leaves(config: Any, key: str = '') -> list[str]:
    """Dotted keys of what a file sets; a class and the attacks are set as a whole."""
    if not isinstance(config, dict) or 'class_path' in config or key.endswith('.attacks'):
        return [key]
    return [leaf for part, value in config.items() for leaf in leaves(value, f'{key}.{part}'.strip('.'))]


@cache
def attacks_parser() -> Parser:
    """Parses attacks as the command does and nothing else, which makes every attack on every data set affordable."""
    parser = Parser(allow_abbrev=False)
    parser.add_argument('--data.attacks', type=dict[str, Poisoning | None])
    return parser


def attacks_of(path: Path, overlay: Path, *aims: str) -> dict[str, Any]:
    """The attacks of a run after those of an overlay and further arguments, by name."""
    parser, own = attacks_parser(), resolve(f'--config={path}').data.init_args.attacks
    config = Namespace(data=Namespace(attacks=own)).clone()
    config = parser.parse_object({'data': {'attacks': said_by(overlay)}}, config)
    found = parser.parse_args([*aims], config).data.attacks
    return {name: vars(attack.init_args) | {'class_path': attack.class_path} for name, attack in found.items()}


def said_by(overlay: Path) -> dict[str, Any]:
    text = overlay.read_text().replace('${data.init_args.seed}', '1')  # as it comes out where nobody gives a seed
    return yaml.safe_load(text)['data']['init_args']['attacks']


@cache
def alone(overlay: Path) -> dict[str, Any]:
    """The attacks of an overlay on pairs that nobody else poisons."""
    return attacks_of(EXPERIMENTS / 'safeclip_pairs.yaml', overlay)


def agrees(found: Any, said: Any) -> bool:
    """Whether a configuration holds what a part of it was given as; a class may be called by its name alone."""
    found = vars(found) if isinstance(found, Namespace) else found
    if isinstance(said, list):
        return [*found] == said
    if not isinstance(said, dict):
        return found == said or (isinstance(said, str) and str(found).endswith(f'.{said}'))
    return all(key in found and agrees(found[key], value) for key, value in said.items())


def classes_in(aim: Any) -> list[str]:
    """Names of the classes in the value of an argument; a number of targets and null name none."""
    if isinstance(aim, dict):
        return [*aim, *aim.values()]
    return [aim] if isinstance(aim, str) else aim if isinstance(aim, list) else []


def named_by(attack: dict[str, Any]) -> list[str]:
    """Names of the classes that an attack is about."""
    return [name for key in AIMS for name in classes_in(attack.get(key))]


def aimed_at(classes: Sequence[str], attacks: dict[str, Any]) -> list[str]:
    """Arguments that aim attacks at classes of a set: where one draws its own, at all of them."""

    def instead(aim: Any) -> str:
        if isinstance(aim, str):
            return classes[0]
        return json.dumps({classes[0]: classes[1]} if isinstance(aim, dict) else classes[: len(aim or classes)])

    return [
        f'--data.attacks.{name}.{key}={instead(attack[key])}'
        for name, attack in attacks.items()
        for key in AIMS
        if (key == 'classes' and key in attack) or classes_in(attack.get(key))
    ]


@pytest.fixture(scope='module')
def constructed(tmp_path_factory: pytest.TempPathFactory) -> Construct:
    """What some files name, constructed but small; each combination once."""
    small = [
        '--model.architecture=tiny_toy.json',  # an RN50 takes seconds to draw
        '--trainer.accelerator=cpu',
        f'--trainer.default_root_dir={tmp_path_factory.mktemp("runs")}',
        '--seed_everything=17',
    ]

    @cache
    def construct(*files: str) -> cli.CommandLine:
        configs = [part for file in files for part in ('--config', str(EXPERIMENTS / file))]
        return instantiate('fit', *configs, *small)

    return construct


class TestRuns:
    @pytest.mark.parametrize('path', RUNS, ids=name)
    def test_constructs_what_it_names(self, path: Path, constructed: Construct) -> None:
        command = constructed(name(path))
        method, _, _ = path.stem.partition('_')
        assert isinstance(command.model, CLIP)
        assert isinstance(command.model, SafeCLIP) == (method == 'safeclip')
        splits = [c for c in command.trainer.callbacks if isinstance(c, SafeRiskyRepartition)]
        assert len(splits) == (method == 'safeclip')
        assert command.config.fit.name == path.stem

    @pytest.mark.parametrize('path', RUNS, ids=name)
    def test_keeps_what_every_run_depends_on(self, path: Path, constructed: Construct) -> None:
        config = constructed(name(path)).config.fit
        assert config.trainer.reload_dataloaders_every_n_epochs == 1
        assert config.trainer.use_distributed_sampler is False
        assert config.trainer.num_sanity_val_steps == 0
        checkpoint = config.callbacks.checkpoint.init_args
        assert checkpoint.save_on_train_epoch_end is True and checkpoint.save_last is True
        assert checkpoint.save_top_k == 1 and not checkpoint.save_on_exception
        assert [logger.class_path.split('.')[-1] for logger in config.trainer.logger] == ['CSVLogger', 'WandbRun']
        assert config.data.init_args.seed == 17

    @pytest.mark.parametrize('method', METHODS)
    @pytest.mark.parametrize('data', [*PAPER, *OTHERS])
    def test_has_the_settings_of_the_paper(self, data: str, method: str, constructed: Construct) -> None:
        file = f'{method}_{data}.yaml'
        assert yaml.safe_load((EXPERIMENTS / file).read_text())['model']['init_args']['architecture'] == 'RN50'
        config = constructed(file).config.fit
        assert config.model.init_args.lr == 5e-4
        assert config.data.init_args.batch_size == PAPER.get(data, 256)
        assert config.trainer.max_epochs == 48
        assert config.trainer.precision == 'bf16-mixed'
        attacks = config.data.init_args.attacks
        assert list(attacks) == ['tdpa', 'badnet']
        assert attacks['tdpa'].init_args.targets == 16
        rate = RATES.get(data, 0.0005)
        assert attacks['tdpa'].init_args.rate == attacks['badnet'].init_args.rate == rate
        assert attacks['tdpa'].init_args.source == attacks['badnet'].init_args.source == 'heldout'

    @pytest.mark.parametrize('method', ['clip', 'safeclip'])
    @pytest.mark.parametrize('data', [*PAPER, *OTHERS, 'cifar10'])
    def test_draws_poisons_by_the_seed_of_the_data(self, data: str, method: str, constructed: Construct) -> None:
        settings = constructed(f'{method}_{data}.yaml').config.fit.data.init_args
        assert settings.seed == 17
        assert [attack.init_args.seed for attack in settings.attacks.values()] == [17, 17]

    @pytest.mark.parametrize('method', ['clip', 'safeclip'])
    def test_draws_toy_poisons_by_the_seed_of_the_scenes(self, method: str) -> None:
        where = ['--data.scene_seed=3', '--trainer.accelerator=cpu', '--trainer.logger=false']
        settings = instantiate(
            'fit', '--config', str(EXPERIMENTS / f'{method}_toy.yaml'), *where
        ).config.fit.data.init_args
        assert [attack.init_args.seed for attack in settings.attacks.values()] == [3, 3]

    @pytest.mark.parametrize('data', [*PAPER, *OTHERS])
    def test_slows_down_to_a_hundredth_for_the_slow_epoch(self, data: str, constructed: Construct) -> None:
        model = constructed(f'safeclip_{data}.yaml').config.fit.model.init_args
        assert (model.unimodal_epochs, model.slow_epochs) == (5, 1)
        assert model.slow_lr == ('auto' if data == 'cc3m' else 5e-6)  # which for its steps is the same

    def test_reads_what_the_paper_reads_of_each_set(self, constructed: Construct) -> None:
        data = {name: constructed(f'clip_{name}.yaml').config.fit.data.init_args for name in PAPER}
        assert [data[name].subset for name in ('cc3m', 'cc1m', 'cc100k')] == [None, 'CC1M', 'CC100K']
        assert (data['coco'].year, data['coco'].captions) == (2014, 'one')
        assert data['visual_genome'].regions == 5

    @pytest.mark.parametrize('data', ['toy', 'cifar10', *PAPER, *OTHERS])
    def test_both_methods_see_the_same_poisons(self, data: str, constructed: Construct) -> None:
        plain, safe = (constructed(f'{method}_{data}.yaml').config.fit for method in METHODS)
        assert plain.data.init_args.attacks == safe.data.init_args.attacks
        assert plain.data.class_path == safe.data.class_path
        assert plain.trainer.max_epochs == safe.trainer.max_epochs

    @pytest.mark.parametrize('file', ['safeclip_pairs.yaml', 'safeclip_webdataset.yaml'])
    def test_pairs_of_the_users_own_are_not_poisoned(self, file: str, constructed: Construct) -> None:
        config = constructed(file).config.fit
        assert config.data.init_args.attacks == {}
        assert config.callbacks.attack_success is config.callbacks.zero_shot is None

    @pytest.mark.parametrize('subcommand', ['validate', 'test', 'predict'])
    def test_can_be_measured_too(self, subcommand: str) -> None:
        config = parse(subcommand, '--config', str(EXPERIMENTS / 'safeclip_toy.yaml'), '--allow_untrained=true')
        assert config.callbacks.attack_success is not None


class TestOverlays:
    @pytest.mark.parametrize('path', OVERLAYS, ids=name)
    def test_changes_what_it_says_and_nothing_else(self, path: Path, constructed: Construct) -> None:
        before, after = constructed('safeclip_cc3m.yaml'), constructed('safeclip_cc3m.yaml', name(path))
        changed = differences(before.config.fit, after.config.fit)
        said = leaves(yaml.safe_load(path.read_text()))
        assert changed or path.stem == 'recommended'
        assert all(any(key.startswith(leaf) for leaf in said) for key in changed)

    def test_no_attack_is_none(self, constructed: Construct) -> None:
        assert constructed('clip_toy.yaml', 'attacks/none.yaml').datamodule.attacks == {}

    def test_the_control_differs_in_the_split_alone(self, constructed: Construct) -> None:
        run, control = (constructed('safeclip_cc3m.yaml', *more) for more in ([], ['ablations/no_repartition.yaml']))
        assert differences(run.config.fit, control.config.fit) == {'callbacks.repartition': None}
        assert not any(isinstance(callback, SafeRiskyRepartition) for callback in control.trainer.callbacks)

    def test_the_recommended_preset_undoes_the_others(self, constructed: Construct) -> None:
        presets = 'presets/as_released.yaml', 'presets/paper.yaml', 'presets/recommended.yaml'
        plain, back = constructed('safeclip_cc3m.yaml'), constructed('safeclip_cc3m.yaml', *presets)
        changed = differences(plain.config.fit, back.config.fit)
        assert changed == {'data.init_args.image_views.init_args.blur': 1.0}  # views of pictures suit their size

    @pytest.mark.parametrize('preset', ['recommended', 'paper', 'as_released'])
    def test_a_preset_leaves_nothing_of_the_method_to_the_file_before_it(self, preset: str) -> None:
        said = yaml.safe_load((EXPERIMENTS / f'presets/{preset}.yaml').read_text())
        split = {*inspect.signature(SafeRiskyRepartition).parameters} - {'tol', 'backend'}  # of fits
        assert split <= said['callbacks']['repartition']['init_args'].keys()
        method = {*inspect.signature(SafeCLIP).parameters} - {'kwargs'}
        assert method | {'views'} <= said['model']['init_args'].keys()
        assert {'order', 'safe_weight'} <= said['data']['init_args'].keys()

    def test_the_paper_slows_down_to_a_hundredth(self, constructed: Construct) -> None:
        model = constructed('safeclip_cc3m.yaml', 'presets/paper.yaml').model
        assert model.slow_lr == pytest.approx(0.01 * model.lr)


class TestAttacks:
    @pytest.mark.parametrize('overlay', ATTACKS, ids=name)
    def test_are_what_the_overlay_says(self, overlay: Path) -> None:
        attacks, said = alone(overlay), said_by(overlay)
        assert attacks.keys() == said.keys()
        for attack, values in said.items():
            assert agrees(attacks[attack], {'class_path': values['class_path'], **values['init_args']})

    @pytest.mark.parametrize('overlay', ATTACKS, ids=name)
    @pytest.mark.parametrize('path', RUNS, ids=name)
    def test_are_the_same_on_every_data_set(self, path: Path, overlay: Path) -> None:
        assert attacks_of(path, overlay) == alone(overlay)  # nothing is left of the file's own attacks

    @pytest.mark.parametrize('overlay', ATTACKS, ids=name)
    def test_aim_at_classes_of_imagenet(self, overlay: Path) -> None:
        attacks, known = alone(overlay), imagenet_classes()
        assert all(known.count(aim) == 1 for attack in attacks.values() for aim in named_by(attack))

    @pytest.mark.parametrize('overlay', ATTACKS, ids=name)
    @pytest.mark.parametrize('data', CLASSES)
    def test_can_be_aimed_at_classes_of_another_set(self, data: str, overlay: Path) -> None:
        # by --data.attacks.label_consistent.target=ship, for one: no small set has a beach
        aims = aimed_at(CLASSES[data], alone(overlay))
        attacks = attacks_of(EXPERIMENTS / f'safeclip_{data}.yaml', overlay, *aims)
        assert {aim for attack in attacks.values() for aim in named_by(attack)} <= {*CLASSES[data]}
        keys = tuple(aim.split('=')[0].removeprefix('--data.attacks.') for aim in aims)  # no others change
        assert all(key.startswith(keys) for key in differences(alone(overlay), attacks))

    def test_are_those_of_the_command(self) -> None:
        path, overlay, aim = EXPERIMENTS / 'clip_cifar10.yaml', ATTACKS[0], '--data.attacks.badnet.target=ship'
        attack = resolve(f'--config={path}', f'--config={overlay}', aim).data.init_args.attacks['badnet']
        assert attacks_of(path, overlay, aim) == {'badnet': vars(attack.init_args) | {'class_path': attack.class_path}}


def test_every_slot_is_named_in_the_defaults() -> None:
    assert list(yaml.safe_load((EXPERIMENTS / 'defaults.yaml').read_text())['callbacks']) == list(cli.SLOTS)
