from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.repartition import Past, Repartition, Split
from experiments import cli, command_line
from experiments.checkpoint_io import AtomicCheckpointIO
from experiments.command_line import import_object
from experiments.subcommands import SLOTS
from tests.experiments.conftest import EXPERIMENTS, SMALL, TINY, FakeRun, instantiate, parse, resolve
from tests.integration.processes import Launch, slurm_environment

TOY = str(EXPERIMENTS / 'safeclip_toy.yaml')


class FirstHalf(Repartition):
    """Somebody's own rule."""

    def decide(self, score: Any, side: Any, past: Past | None, candidates: Any = None) -> Split:
        raise AssertionError('no run of this file gets that far')


def run(*args: str) -> None:
    cli.main(args)


def fit(*args: str) -> Any:
    return resolve('--config', TOY, *args)


def refusal(capsys: pytest.CaptureFixture[str], *args: str, stage: Callable[..., Any] = parse) -> str:
    """The line that a refused command prints; its exit status is that of a usage error."""
    with pytest.raises(SystemExit) as exit:
        stage(*args)
    assert exit.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith('Seed set'))
    return line


class TestOverrides:
    def test_a_slot_is_emptied_by_null(self) -> None:
        callbacks = fit('--callbacks.repartition=null').callbacks
        assert callbacks.repartition is None
        assert callbacks.attack_success is not None

    def test_an_argument_of_a_slot_leaves_the_others_alone(self) -> None:
        before, after = fit().callbacks.repartition, fit('--callbacks.repartition.threshold=0.8')
        after = after.callbacks.repartition
        assert after.init_args.threshold == 0.8
        assert after.init_args.size == before.init_args.size == 'mixture'

    def test_an_overlay_that_sets_one_slot_leaves_the_others_alone(self) -> None:
        overlay = '{callbacks: {repartition: {init_args: {growth: 0.2}}}}'
        callbacks = fit('--config', overlay).callbacks
        assert callbacks.repartition.init_args.growth == 0.2
        assert callbacks.ledger.class_path.endswith('ScoreLedger')

    def test_a_slot_takes_another_class_by_its_short_name(self) -> None:
        slot = fit('--callbacks.repartition=FirstHalf', '--callbacks.repartition.every=3')
        slot = slot.callbacks.repartition
        assert slot.class_path.endswith('.FirstHalf')
        assert slot.init_args.every == 3
        assert 'growth' not in slot.init_args  # which the file's class has

    @pytest.mark.parametrize('file', ['safeclip_toy.yaml', 'safeclip_cifar10.yaml'])
    @pytest.mark.parametrize(
        'args',
        [
            ['--callbacks.repartition.score=Running', '--callbacks.repartition.score.momentum=0.9'],
            [
                '--config',
                '{callbacks: {repartition: {init_args: {score: {class_path: Running, init_args: {momentum: 0.9}}}}}}',
            ],
        ],
        ids=['command line', 'file'],
    )
    def test_a_split_takes_another_score_by_its_short_name(self, file: str, args: list[str]) -> None:
        score = resolve('--config', str(EXPERIMENTS / file), *args).callbacks.repartition.init_args.score
        assert score.class_path == 'callbacks.scores.Running'
        assert score.init_args.as_dict() == {'momentum': 0.9}

    def test_an_argument_of_a_score_leaves_its_class_alone(self) -> None:
        args = '--config', str(EXPERIMENTS / 'safeclip_cifar10.yaml'), '--callbacks.repartition.score.views=2'
        score = resolve(*args).callbacks.repartition.init_args.score
        assert (score.class_path, score.init_args.views) == ('callbacks.scores.Augmented', 2)

    def test_a_slot_can_be_emptied_and_filled_again(self) -> None:
        again = ['--callbacks.repartition=null', '--callbacks.repartition=SafeRiskyRepartition']
        assert fit(*again).callbacks.repartition.init_args.size == 'growth'  # the default, not the file's

    def test_another_model_keeps_the_arguments_that_it_has_too(self) -> None:
        before, after = fit().model, fit('--model=CLIP', '--callbacks.repartition=null').model
        assert after.class_path.endswith('.CLIP')
        assert after.init_args.lr == before.init_args.lr
        assert 'slow_lr' in before.init_args and 'slow_lr' not in after.init_args

    def test_an_argument_of_one_attack_leaves_the_other_attacks_alone(self) -> None:
        before, after = (fit(*args).data.init_args.attacks for args in ([], ['--data.attacks.badnet.rate=0.1']))
        assert after['badnet'].init_args.rate == 0.1
        assert after['badnet'].init_args.target == before['badnet'].init_args.target
        assert after['tdpa'] == before['tdpa']

    def test_attacks_are_emptied_by_an_empty_dictionary(self) -> None:
        assert fit('--data.attacks={}').data.init_args.attacks == {}

    def test_an_overlay_of_attacks_replaces_them_all(self) -> None:
        overlay = str(EXPERIMENTS / 'attacks' / 'tdpa.yaml')
        assert list(fit('--config', overlay).data.init_args.attacks) == ['tdpa']

    def test_a_flag_before_an_overlay_is_overridden_by_it(self) -> None:
        overlay = ['--config', '{trainer: {max_epochs: 5}}']
        assert fit('--trainer.max_epochs=7', *overlay).trainer.max_epochs == 5
        assert fit(*overlay, '--trainer.max_epochs=7').trainer.max_epochs == 7


class TestRefusals:
    @pytest.mark.parametrize(
        ('args', 'sentence'),
        [
            (
                ['--callbacks.repartion=null'],
                'unrecognized option --callbacks.repartion: did you mean --callbacks.repartition?',
            ),
            (
                ['--config', '{callbacks: {repartion: null}}'],
                'unrecognized key callbacks.repartion in the given text: did you mean callbacks.repartition?',
            ),
            (['--callbacks.repartition.treshold=0.9'], 'did you mean --callbacks.repartition.threshold?'),
            (['--data.attacks.badnet.rat=0.1'], 'did you mean --data.attacks.badnet.rate?'),
            (
                ['--model=SafeClip'],
                'model: SafeClip is not the name of a class that fits there: did you mean SafeCLIP or',
            ),
            (['--callbacks.repartition=ZeroShot'], 'callbacks.repartition: ZeroShot is not the name of a class'),
            (['--trainer.max_epochs=many'], 'trainer.max_epochs: expected int, got many'),
            (['--trainer.max_epoch=3'], 'unrecognized option --trainer.max_epoch: did you mean --trainer.max_epochs?'),
            (['--config', '{model: {init_args: {lr: "${data.init_args.rate}"}}}'], 'model.init_args.lr: Interpolation'),
            (['--config', 'nowhere.yaml'], 'config: File does not exist'),
            (['--trainer.limit_train_batches=1'], 'trainer.limit_train_batches=1 would be read as 100 %'),
            (['--ckpt_path=nowhere.ckpt'], "ckpt_path='nowhere.ckpt' does not exist"),
        ],
    )
    def test_a_mistake_is_reported_in_one_line(
        self, capsys: pytest.CaptureFixture[str], args: list[str], sentence: str
    ) -> None:
        line = refusal(capsys, 'fit', '--config', TOY, *args)
        assert line.startswith('error: ')
        assert sentence in line

    def test_an_error_of_a_constructor_is_reported_in_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = refusal(capsys, 'fit', '--config', TOY, '--data.batch_size=0', stage=instantiate)
        assert line == 'error: data.batch_size must be at least 1, got 0.'

    def test_the_traceback_is_shown_on_request(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        mistake = ['fit', '--config', TOY, '--data.batch_size=0']
        with pytest.raises(ValueError, match='batch_size'):
            instantiate(*mistake, '--traceback')
        monkeypatch.setenv('CLIPWARD_TRACEBACK', '1')
        with pytest.raises(ValueError, match='batch_size'):
            instantiate(*mistake)

    @pytest.mark.parametrize('subcommand', ['validate', 'test', 'predict'])
    def test_random_weights_are_not_measured(self, capsys: pytest.CaptureFixture[str], subcommand: str) -> None:
        assert f'{subcommand} would measure random weights' in refusal(capsys, subcommand, '--config', TOY)

    @pytest.mark.parametrize('way', ['--allow_untrained=true', '--model.init_from=a.ckpt', '--model.pretrained=openai'])
    def test_unless_allowed_or_not_random(self, way: str) -> None:
        assert parse('validate', '--config', TOY, way).model is not None


class TestTrainer:
    def test_callbacks_run_in_the_order_of_the_slots(self, tmp_path: Path) -> None:
        order = '{callbacks: {checkpoint: ModelCheckpoint, attack_success: AttackSuccessRate}}'
        where = [f'--trainer.default_root_dir={tmp_path}', '--trainer.logger=false']
        trainer = instantiate('fit', '--config', order, '--config', TOY, *where).trainer
        kinds = [type(callback) for callback in trainer.callbacks]
        present = [kinds.index(type(callback)) for callback in named(trainer)]
        assert present == sorted(present)
        assert len(present) == 8

    def test_checkpoints_are_written_atomically_unless_told_otherwise(self, tmp_path: Path) -> None:
        where = [f'--trainer.default_root_dir={tmp_path}', '--trainer.logger=false']
        trainer = instantiate('fit', '--config', TOY, *where).trainer
        assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO
        plugin = '--trainer.plugins=lightning.pytorch.plugins.io.TorchCheckpointIO'
        trainer = instantiate('fit', '--config', TOY, *where, plugin).trainer
        assert type(trainer.strategy.checkpoint_io) is TorchCheckpointIO

    def test_a_job_of_slurm_goes_on_from_the_end_of_an_epoch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in slurm_environment(Launch(rank=0, ranks=1, per_node=1, port=29500)).items():
            monkeypatch.setenv(name, str(value))
        where = [f'--trainer.default_root_dir={tmp_path}', '--trainer.logger=false', '--trainer.devices=1']
        trainer = instantiate('fit', '--config', TOY, *where).trainer
        environment = trainer._accelerator_connector.cluster_environment
        assert isinstance(environment, SLURMEnvironment) and not environment.auto_requeue


def named(trainer: Any) -> list[Any]:
    """Callbacks of the slots that are taken, in the order of the slots."""
    bases = [import_object(path) for path in SLOTS.values() if not path.endswith('.Callback')]
    return [callback for base in bases for callback in trainer.callbacks if isinstance(callback, base)]


class TestRun:
    def test_saves_settings_plan_metrics_marker_and_checkpoint(self, finished_run: Path) -> None:
        for name in ('config.yaml', 'plan.txt', 'metrics.csv', 'DONE', 'checkpoints/last.ckpt'):
            assert (finished_run / name).is_file(), name

    def test_marks_that_training_finished(self, finished_run: Path) -> None:
        done = json.loads((finished_run / 'DONE').read_text())
        assert done['epochs'] == 3
        assert done['steps'] == 12

    def test_its_configuration_is_resolved_and_gives_the_same_configuration(self, finished_run: Path) -> None:
        saved = finished_run / 'config.yaml'
        assert '${' not in saved.read_text()
        again = parse('fit', '--config', str(saved))
        assert again.data.init_args.seed == again.seed_everything == 1
        assert yaml.safe_load(saved.read_text())['data']['init_args']['rows'] == again.data.init_args.rows == 96

    def test_its_configuration_is_sent_to_wandb(self, finished_run: Path, fake_wandb: list[FakeRun]) -> None:
        assert fake_wandb[0].settings['config'] == yaml.safe_load((finished_run / 'config.yaml').read_text())

    def test_wandb_lies_in_its_folder_and_draws_against_epochs(
        self, finished_run: Path, fake_wandb: list[FakeRun]
    ) -> None:
        run = fake_wandb[0]
        assert run.settings['dir'] == str(finished_run)
        assert run.settings['name'].endswith('-d1-t1')  # seeds of data and of training
        assert run.metrics['asr/*'] == run.metrics['partition/*'] == 'epoch'

    def test_its_checkpoint_loads_with_weights_only(self, finished_run: Path) -> None:
        checkpoint = torch.load(finished_run / 'checkpoints' / 'last.ckpt', weights_only=True)
        assert checkpoint['epoch'] == 2

    def test_its_checkpoint_can_be_measured_with_other_settings(self, finished_run: Path, tmp_path: Path) -> None:
        checkpoint = str(finished_run / 'checkpoints' / 'last.ckpt')
        where = [f'--trainer.default_root_dir={tmp_path}', f'--data.cache_dir={tmp_path}', '--trainer.logger=false']
        run = cli.main(
            ['validate', '--config', TOY, *SMALL, TINY, *where, '--model.lr=0.5', f'--ckpt_path={checkpoint}']
        )
        assert run.model.lr == 0.5
        assert 0 <= float(run.trainer.callback_metrics['zero_shot/heldout']) <= 1


class TestFailedStart:
    @pytest.mark.parametrize(
        'mistake',
        [
            '--data.attacks={a: {class_path: BadNet, init_args: {target: nothing, count: 1}}}',  # in the data's setup
            '--model.pool_size=1',  # in the model's
            '--trainer.max_epochs=-1',  # when the optimizer is made
        ],
    )
    def test_leaves_neither_a_folder_nor_a_run_in_wandb(
        self, mistake: str, tmp_path: Path, fake_wandb: list[FakeRun], capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = len(fake_wandb)
        where = [f'--trainer.default_root_dir={tmp_path}/runs', f'--data.cache_dir={tmp_path}/cache']
        refusal(capsys, 'fit', '--config', TOY, *SMALL, *where, mistake, stage=run)
        assert len(fake_wandb) == before
        assert not (tmp_path / 'runs').exists()


class TestEntryPoint:
    def test_reads_the_section_of_a_file(self) -> None:
        text = f'{{fit: {{base: [{TOY}], name: mine}}}}'
        config = parse('-c', text, 'fit', '--data.rows=7')
        assert (config.name, config.data.init_args.rows) == ('mine', 7)
        assert config.model.class_path.endswith('.SafeCLIP')

    def test_says_its_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit:
            cli.main(['--version'])
        assert exit.value.code == 0
        assert 'torch 2.' in capsys.readouterr().out

    @pytest.mark.parametrize(
        ('option', 'sentence'),
        [('--verson', 'unrecognized option --verson: did you mean --version?'), ('--version=1', 'which subcommand?')],
    )
    def test_asks_for_a_subcommand(self, option: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert sentence in refusal(capsys, option)

    def test_exits_as_terminated_when_terminated(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def terminated(arguments: list[str]) -> None:
            raise SIGTERMException

        monkeypatch.setattr('sys.argv', ['clipward', 'fit'])
        monkeypatch.setattr(command_line, 'run', terminated)
        with pytest.raises(SystemExit) as exit:
            cli.command()
        assert exit.value.code == 143
        assert capsys.readouterr().err == 'terminated\n'

    def test_returns_nothing_since_a_script_would_exit_with_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr('sys.argv', ['clipward', 'fit'])
        monkeypatch.setattr(command_line, 'run', lambda arguments: object())
        assert cli.command() is None

    def test_runs_as_a_module(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr('sys.argv', ['cli.py', 'fitt'])
        monkeypatch.setattr('signal.signal', lambda *_: None)  # the handlers would stay for all later tests
        with pytest.raises(SystemExit):
            runpy.run_path(cli.__file__, run_name='__main__')
        assert "'fitt': did you mean fit?" in capsys.readouterr().err


class TestPrivateNames:
    """Names of Lightning that this project leans on; a new release may lose them without notice."""

    @pytest.mark.parametrize('name', ['_get', '_instantiate_trainer', '_parse_ckpt_path'])
    def test_of_the_command_line_exist(self, name: str) -> None:
        assert callable(getattr(LightningCLI, name))

    def test_of_a_command_line_object_exist(self, tmp_path: Path) -> None:
        command = instantiate('fit', '--config', TOY, '--trainer.logger=false')
        assert set(command._subcommand_parsers) == {'fit'}
        assert callable(command.trainer.strategy.precision_plugin.forward_context)

    def test_of_loggers_exist(self, tmp_path: Path) -> None:
        logger = WandbLogger(save_dir=tmp_path, offline=True)
        assert logger._wandb_init['dir'] == logger._save_dir == str(tmp_path)

    def test_the_hook_that_sends_the_configuration_exists(self) -> None:
        assert callable(SaveConfigCallback.save_config)
