from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from callbacks.repartition import SafeRiskyRepartition
from experiments import cli
from lightning_modules.clip import CLIP
from lightning_modules.safeclip import SafeCLIP
from tests.experiments.conftest import EXPERIMENTS

RUNS = sorted(path for path in EXPERIMENTS.glob('*.yaml') if path.name != 'defaults.yaml')
OVERLAYS = sorted(path for folder in ('attacks', 'presets', 'ablations') for path in (EXPERIMENTS / folder).glob('*.yaml'))
PAPER = ['safeclip_cc3m.yaml', 'clip_cc3m.yaml']
SMALL_MODEL = '--model.architecture=tiny_toy.json'  # an RN50 takes seconds to draw
Parse = Callable[..., Any]


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
    """Dotted keys of what a file sets; where it names a class, that of the class."""
    if not isinstance(config, dict) or not config or 'class_path' in config:
        return [key]
    return [leaf for part, value in config.items() for leaf in leaves(value, f'{key}.{part}'.strip('.'))]


class TestRuns:
    @pytest.mark.parametrize('path', RUNS, ids=name)
    def test_constructs_what_it_names(self, path: Path, instantiate: Parse, tmp_path: Path) -> None:
        cpu = ['--trainer.accelerator=cpu', '--trainer.logger=false', f'--trainer.default_root_dir={tmp_path}']
        command = instantiate('fit', '--config', str(path), SMALL_MODEL, *cpu)
        method, _, _ = path.stem.partition('_')
        assert isinstance(command.model, CLIP)
        assert isinstance(command.model, SafeCLIP) == (method == 'safeclip')
        splits = [c for c in command.trainer.callbacks if isinstance(c, SafeRiskyRepartition)]
        assert len(splits) == (method == 'safeclip')
        assert command.config.fit.name == path.stem

    @pytest.mark.parametrize('path', RUNS, ids=name)
    def test_follows_the_seed_of_the_run(self, path: Path, parse: Parse) -> None:
        assert parse('fit', '--config', str(path), '--seed_everything=17').data.init_args.seed == 17

    @pytest.mark.parametrize('path', RUNS, ids=name)
    def test_keeps_what_every_run_depends_on(self, path: Path, parse: Parse) -> None:
        config = parse('fit', '--config', str(path))
        assert config.trainer.reload_dataloaders_every_n_epochs == 1
        assert config.trainer.use_distributed_sampler is False
        assert config.trainer.num_sanity_val_steps == 0
        checkpoint = config.callbacks.checkpoint.init_args
        assert checkpoint.save_on_train_epoch_end is True and checkpoint.save_last is True
        assert checkpoint.save_top_k == 1 and not checkpoint.save_on_exception
        assert [logger.class_path.split('.')[-1] for logger in config.trainer.logger] == ['CSVLogger', 'WandbRun']

    @pytest.mark.parametrize('file', PAPER)
    def test_has_the_settings_of_the_paper(self, file: str, parse: Parse) -> None:
        config = parse('fit', '--config', str(EXPERIMENTS / file))
        assert config.model.init_args.architecture == 'RN50'
        assert config.model.init_args.lr == 5e-4
        assert config.data.init_args.batch_size == 512
        assert config.trainer.max_epochs == 48
        assert config.trainer.precision == 'bf16-mixed'
        attacks = config.data.init_args.attacks
        assert list(attacks) == ['tdpa', 'badnet']
        assert attacks['tdpa'].init_args.targets == 16
        assert attacks['tdpa'].init_args.rate == attacks['badnet'].init_args.rate == 0.0005
        assert attacks['tdpa'].init_args.source == attacks['badnet'].init_args.source == 'heldout'

    @pytest.mark.parametrize('data', ['toy', 'cc3m', 'cifar10'])
    def test_both_methods_see_the_same_poisons(self, data: str, parse: Parse) -> None:
        plain, safe = (parse('fit', '--config', str(EXPERIMENTS / f'{m}_{data}.yaml')) for m in ('clip', 'safeclip'))
        assert plain.data.init_args.attacks == safe.data.init_args.attacks
        assert plain.data.class_path == safe.data.class_path
        assert plain.trainer.max_epochs == safe.trainer.max_epochs

    @pytest.mark.parametrize('file', ['safeclip_pairs.yaml', 'safeclip_webdataset.yaml'])
    def test_pairs_of_the_users_own_are_not_poisoned(self, file: str, parse: Parse) -> None:
        config = parse('fit', '--config', str(EXPERIMENTS / file))
        assert config.data.init_args.attacks == {}
        assert config.callbacks.attack_success is config.callbacks.zero_shot is None

    @pytest.mark.parametrize('subcommand', ['validate', 'test', 'predict'])
    def test_can_be_measured_too(self, subcommand: str, parse: Parse) -> None:
        config = parse(subcommand, '--config', str(EXPERIMENTS / 'safeclip_toy.yaml'), '--allow_untrained=true')
        assert config.callbacks.attack_success is not None


class TestOverlays:
    @pytest.mark.parametrize('path', OVERLAYS, ids=name)
    def test_changes_what_it_says_and_nothing_else(self, path: Path, parse: Parse) -> None:
        run = ['fit', '--config', str(EXPERIMENTS / 'safeclip_cc3m.yaml')]
        changed = differences(parse(*run), parse(*run, '--config', str(path)))
        said = leaves(yaml.safe_load(path.read_text()))
        assert changed or path.stem == 'recommended'
        assert all(any(key.startswith(leaf) for leaf in said) for key in changed)

    @pytest.mark.parametrize('path', OVERLAYS, ids=name)
    def test_constructs_what_it_names(self, path: Path, instantiate: Parse, tmp_path: Path) -> None:
        cpu = ['--trainer.accelerator=cpu', '--trainer.logger=false', f'--trainer.default_root_dir={tmp_path}']
        run = ['--config', str(EXPERIMENTS / 'safeclip_cc3m.yaml'), '--config', str(path)]
        assert isinstance(instantiate('fit', *run, SMALL_MODEL, *cpu).model, SafeCLIP)

    def test_no_attack_is_none(self, parse: Parse) -> None:
        run = ['fit', '--config', str(EXPERIMENTS / 'clip_toy.yaml'), '--config', str(EXPERIMENTS / 'attacks/none.yaml')]
        assert parse(*run).data.init_args.attacks == {}

    def test_the_control_differs_in_the_split_alone(self, parse: Parse) -> None:
        run = ['fit', '--config', str(EXPERIMENTS / 'safeclip_toy.yaml')]
        control = parse(*run, '--config', str(EXPERIMENTS / 'ablations/no_repartition.yaml'))
        assert differences(parse(*run), control) == {'callbacks.repartition': None}

    def test_the_recommended_preset_undoes_the_others(self, parse: Parse) -> None:
        run = ['fit', '--config', str(EXPERIMENTS / 'safeclip_cc3m.yaml')]
        overlays = [['--config', str(EXPERIMENTS / f'presets/{name}.yaml')] for name in ('as_released', 'recommended')]
        changed = differences(parse(*run), parse(*run, *overlays[0], *overlays[1]))
        assert changed == {'data.init_args.image_views.init_args.blur': 1.0}  # views of pictures suit their size

    def test_the_paper_slows_down_to_a_hundredth(self, parse: Parse) -> None:
        run = ['fit', '--config', str(EXPERIMENTS / 'safeclip_cc3m.yaml')]
        model = parse(*run, '--config', str(EXPERIMENTS / 'presets/paper.yaml')).model.init_args
        assert model.slow_lr == pytest.approx(0.01 * model.lr)


def test_every_slot_is_named_in_the_defaults() -> None:
    assert list(yaml.safe_load((EXPERIMENTS / 'defaults.yaml').read_text())['callbacks']) == list(cli.SLOTS)
