"""Lightning's trainer, with what the command does beside training: each method is a subcommand."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from datamodules.attacks import Patch
from datamodules.attacks.triggers import Position
from datamodules.export import Form, export
from datamodules.files.writers import require_empty
from datamodules.pairs import PairsDataModule
from datamodules.rows.table import Origin
from experiments.check.attack_check import print_report
from experiments.surrogates.harden import make_hardened, remove_trigger
from experiments.surrogates.optimize_patch import make_patch
from experiments.surrogates.rank_images import rank
from experiments.surrogates.surrogate import Surrogate, load_trained
from lightning_modules.adversarial import Norm
from lightning_modules.clip import CLIP


class Trainer(L.Trainer):
    """Its further methods look at a run's data and model, or prepare files for attacks; none of them trains the model.

    Arguments of a method, beside model and datamodule, are options of the subcommand of its name.
    """

    def export(self, model: CLIP, datamodule: PairsDataModule, folder: str, form: Form = 'csv') -> None:
        """Write the poisoned pairs, and what it takes to measure the attacks, as files for other code.

        Args:
            model: Whose sizes the pairs are laid out for.
            datamodule: The pairs.
            folder: Where to; must not exist yet, or be empty.
            form: ``csv`` with a PNG for each picture, or ``webdataset`` shards.
        """
        place = require_empty(Path(folder))  # before hours of decoding
        print(f'{export(laid_out(model, datamodule), place, form):,} pairs in {folder}', flush=True)

    def harden(
        self,
        model: CLIP,
        datamodule: PairsDataModule,
        attack: str,
        file: str | None = None,
        norm: Norm = 'linf',
        radius: float | None = None,
        step: float | None = None,
        steps: int = 100,
        ckpt_path: str | None = None,
    ) -> None:
        """Make the pictures of a label-consistent attack harder to recognize, for the file that it waits for.

        Args:
            model: The surrogate that is to recognize them no longer. BackdoorBench takes one that was trained to
                withstand such changes.
            datamodule: The pairs, with the attack.
            attack: Name, in data.attacks, of a LabelConsistent with harden: pgd.
            file: Where to write them, an .npz file; the attack's own ``hardened`` if null.
            norm: What bounds the change of a picture: ``linf``, each value's, or ``l2``, its Euclidean length.
            radius: The bound: for ``linf`` in units of 1/255; for ``l2`` in units of 1, where values lie in [0, 1].
                If null, 8, as BackdoorBench has it, or 300/255, as Turner et al. on pictures of 32 pixels. On 224
                pixels the same change of each value is seven times as long.
            step: Length of a step in the same units; 1.5/8 of the radius, as in BackdoorBench, if null.
            steps: Number of steps.
            ckpt_path: Checkpoint of the surrogate.
        """
        surrogate, own = load_trained(model, ckpt_path, self.strategy.root_device), remove_trigger(datamodule, attack)
        data = laid_out(model, datamodule)
        make_hardened(Surrogate(surrogate, data), attack, file or own, norm, radius, step, steps)

    def optimize_patch(
        self,
        model: CLIP,
        datamodule: PairsDataModule,
        target: str,
        file: str,
        size: int = 16,
        position: Position = 'center',
        margin: int = 0,
        steps: int = 1000,
        batch: int = 64,
        lr: float = 0.01,
        seed: int = 0,
        augment: bool = True,
        ckpt_path: str | None = None,
    ) -> None:
        """Make a patch that a model takes for a class, for the attack OptimizedPatch, as BadCLIP does.

        Args:
            model: The surrogate.
            datamodule: The pairs; attacks are left out.
            target: Name of the class.
            file: Where to write the patch, as a PNG.
            size: Its side in pixels of the stored image.
            position: Where it goes, as in the attack.
            margin: Pixels between patch and border, as in the attack.
            steps: Steps of Adam. BadCLIP takes about 7,800 with a learning rate of 0.001.
            batch: Images in a step.
            lr: Learning rate, in units of the range of a value.
            seed: Seed of the noise that it starts from, of random places, as in the attack, and of images drawn.
            augment: Show the model the views that training sees, so that the patch outlives them.
            ckpt_path: Checkpoint of the surrogate.
        """
        start = Patch(size, 'noise', position=position, margin=margin, seed=seed)
        surrogate = self._surrogate(model, datamodule, ckpt_path)
        make_patch(surrogate, start, target, file, steps, batch, lr, augment)

    def rank_images(
        self,
        model: CLIP,
        datamodule: PairsDataModule,
        target: str,
        file: str,
        source: Origin = 'heldout',
        ckpt_path: str | None = None,
    ) -> None:
        """List images by how similar a model finds them to a class, for the option ranking of backdoors.

        Args:
            model: The surrogate.
            datamodule: The pairs; attacks are left out.
            target: Name of the class.
            file: Where to write the images, a CSV, most similar ones first.
            source: Table of the images, as in the attack.
            ckpt_path: Checkpoint of the surrogate.
        """
        rank(self._surrogate(model, datamodule, ckpt_path), target, source, file)

    def check_attacks(
        self,
        model: CLIP,
        datamodule: PairsDataModule,
        file: str | None = None,
        sheet: str | None = None,
        pictures: int = 32,
        views: int = 8,
        ckpt_path: str | None = None,
    ) -> None:
        """Say of each attack what it does, whether it is likely to work, and what to do if not.

        Args:
            model: Whose sizes the pairs are laid out for. With trained weights, best of the same run without poison
                (data.poison: false), it also says what such a model sees in the attack.
            datamodule: The pairs, with the attacks.
            file: Where to write all figures as JSON.
            sheet: Where to draw a poison of each attack without and with its trigger, and two of its views, as a PNG.
            pictures: Poisons of each attack to look at, at most.
            views: Epochs whose views of them to look at.
            ckpt_path: Checkpoint of the model.
        """
        asked = (
            None if model.untrained and ckpt_path is None else load_trained(model, ckpt_path, self.strategy.root_device)
        )
        print_report(laid_out(model, datamodule), asked, pictures, views, file, sheet)

    def _surrogate(self, model: CLIP, data: PairsDataModule, ckpt_path: str | None) -> Surrogate:
        """A trained model with clean pairs: an attack on them may be waiting for the very file that is being made."""
        known = load_trained(model, ckpt_path, self.strategy.root_device)
        data.attacks = {}
        return Surrogate(known, laid_out(model, data))


def laid_out(model: CLIP, data: PairsDataModule) -> PairsDataModule:
    """The data as a run of this model would have it: decoded, poisoned, tokenized."""
    data.image_size = data.image_size or model.image_size
    data.context_length = data.context_length or model.context_length
    data.prepare_data()
    data.setup('validate')
    return data
