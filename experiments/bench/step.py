"""What a training step costs: over the same step with padding, in memory, and over open_clip's own trainer."""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.usage_error import UsageError
from experiments.bench.measure import Memory, Result, best_of, in_new_process, seconds
from lightning_modules import clip
from lightning_modules.clip import CLIP
from lightning_modules.losses import info_nce

# Tokens of CC3M's captions, start and end included: every sixteenth of 512, shortest to longest (12.6 on average).
CAPTION_LENGTHS = (7, 7, 8, 9, 9, 10, 10, 11, 12, 12, 13, 14, 15, 17, 20, 36)
TEXT_REPEATS, STEP_REPEATS, RACE_REPEATS = 2, 1, 2
MODEL, MODEL_IMAGE_SIZE = 'RN50', 224
MEMORY_MODEL, MEMORY_BATCH, CHUNK_SIZE = 'ViT-S-16', 128, 32
FP32, BF16 = ('32-true', 'fp32'), ('bf16-mixed', 'amp_bf16')  # the same precision by our name and by open_clip's
WORDS = ('person', 'dog', 'boat', 'on', 'a', 'the', 'in', 'red', 'with', 'tree')  # one token each
PEER_LAUNCHER = (
    'import sys, open_clip; open_clip.add_model_config(sys.argv.pop(1)); '
    'from open_clip_train.main import main; main(sys.argv[1:])'
)


class Race(NamedTuple):
    """Epochs that both trainers run on the same files.

    Attributes:
        model: Architecture, or a JSON file of ours.
        image_size: Side of the pictures in pixels.
        batch: Pairs in a batch.
        steps: Batches in an epoch.
        epochs: Lengths of a shorter and a longer run.
        targets: Largest ratio of the times, ours over open_clip's, by our precision and its.
    """

    model: str
    image_size: int
    batch: int
    steps: int
    epochs: tuple[int, int]
    targets: Mapping[tuple[str, str], float]


RACES = (
    Race('small32.json', 32, 128, 20, (1, 4), {FP32: 0.75, BF16: 0.75, ('bf16-mixed', 'fp32'): 0.55}),
    Race('RN50', 224, 16, 4, (1, 3), {FP32: 0.8}),
)


class Batch(NamedTuple):
    """What a training step needs of a batch."""

    image: Tensor
    tokens: Tensor
    row: Tensor
    cross_modal: int


def measure(peer: Path | None = None) -> Iterator[Result]:
    """Measures a step with and without packing, its memory, and epochs against another trainer.

    Args:
        peer: Python of an environment with ``open_clip_torch[training]``; ``None`` leaves the comparison out.
    """
    yield from measure_packing()
    yield from measure_memory()
    if peer is not None:
        for race in RACES:
            yield from measure_race(race, peer)


# --- packing ----------------------------------------------------------------------------------------------------------


def measure_packing() -> Iterator[Result]:
    """The text tower alone, then a whole step, with packed captions over padded ones."""
    model = CLIP(MODEL)
    tokens = draw_tokens(CAPTION_LENGTHS * 2, model.context_length)
    texts = {'packed': partial(embed_text, model, tokens, True), 'padded': partial(embed_text, model, tokens, False)}
    times = best_of(texts, TEXT_REPEATS)
    yield Result(f'text tower of {MODEL}, packed over padded', times['packed'] / times['padded'], target=0.3)
    batch = draw_batch(model, len(CAPTION_LENGTHS), MODEL_IMAGE_SIZE)
    steps = {'packed': partial(train_step, model, batch, True), 'padded': partial(train_step, model, batch, False)}
    times = best_of(steps, STEP_REPEATS)
    what = f'step of {MODEL} at {MODEL_IMAGE_SIZE} pixels, {len(CAPTION_LENGTHS)} pairs, packed over padded'
    yield Result(what, times['packed'] / times['padded'], target=0.8)


def draw_tokens(lengths: Sequence[int], context_length: int) -> Tensor:
    """Random captions of some lengths, int64 (B, T)."""
    tokens = torch.zeros(len(lengths), context_length, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for caption, length in zip(tokens, np.minimum(lengths, context_length).tolist(), strict=True):
        caption[: length - 1] = torch.randint(1, 49405, (length - 1,), generator=generator)
        caption[length - 1] = 49407
    return tokens


def draw_batch(model: CLIP, pairs: int, image_size: int) -> Batch:
    """One view of random pairs."""
    lengths = np.resize(CAPTION_LENGTHS, pairs).tolist()
    image = torch.randn(1, pairs, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    return Batch(image, draw_tokens(lengths, model.context_length)[None], torch.arange(pairs), pairs)


def embed_text(model: CLIP, tokens: Tensor, packed: bool) -> None:
    """Embeds captions and computes all gradients."""
    model.packs_text = packed
    model.zero_grad()
    model.backward(model.encode_text(tokens).square().sum())


def train_step(model: CLIP, batch: Any, packed: bool = True) -> None:
    """Embeds pairs and computes the gradients of the loss."""
    model.packs_text = packed
    model.zero_grad()
    image, text = model._embed(batch)
    model.backward(info_nce(image[0], text[0], model.logit_scale, image[0], text[0], 0))


# --- memory -----------------------------------------------------------------------------------------------------------


def measure_memory() -> Iterator[Result]:
    """Memory and time of a step whose activations are recomputed, over one that keeps them."""
    costs = partial(in_new_process, memory_and_seconds, MEMORY_MODEL, MEMORY_BATCH)
    whole_memory, whole_time = costs({})
    settings: dict[str, tuple[dict[str, Any], float | None]] = {
        f'in chunks of {CHUNK_SIZE}': ({'chunk_size': CHUNK_SIZE}, 1 / 3),
        'with grad_checkpointing': ({'grad_checkpointing': True}, None),
        'with both': ({'chunk_size': CHUNK_SIZE, 'grad_checkpointing': True}, 1 / 3),
    }
    for name, (arguments, target) in settings.items():
        memory, time = costs(arguments)
        step = f'step of {MEMORY_MODEL}, {MEMORY_BATCH} pairs, {name}'
        yield Result(f'{step}: most memory over that of the whole', memory / whole_memory, target=target)
        yield Result(f'{step}: time over that of the whole', time / whole_time)


def memory_and_seconds(architecture: str, pairs: int, arguments: Mapping[str, Any]) -> tuple[float, float]:
    """Bytes that a step needs beside weights and inputs, and its CPU seconds."""
    torch.set_num_threads(1)
    model = CLIP(architecture, **arguments)
    train_step(model, draw_batch(model, 2, model.image_size))  # what the libraries keep from the first step on
    batch = draw_batch(model, pairs, model.image_size)
    with Memory() as memory:
        train_step(model, batch)
    return memory.peak, seconds(partial(train_step, model, batch))


# --- another trainer --------------------------------------------------------------------------------------------------


def check_peer(peer: Path) -> None:
    """Refuses what is no Python with open_clip's trainer.

    Raises:
        UsageError: If it cannot import the trainer.
    """
    found = 'has the trainer'
    try:
        answer = subprocess.run(
            [peer, '-c', f'import open_clip_train.main; print({found!r})'], capture_output=True, text=True
        ).stdout
    except OSError:  # no program
        answer = ''
    if found not in answer:
        raise UsageError(f'--peer={peer} is not a Python that has open_clip_torch[training]: give the path of one.')


def measure_race(race: Race, peer: Path) -> Iterator[Result]:
    """CPU seconds of an epoch over those of open_clip's trainer on the same files: start-up is the difference."""
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(race, Path(folder))
        commands: dict[str, Callable[[int], list[str]]] = {}
        for ours, theirs in race.targets:
            commands[ours] = partial(our_command, race, Path(folder), ours)
            commands[theirs] = partial(peer_command, race, Path(folder), peer, theirs)
        epoch = epoch_seconds(commands, race.epochs, Path(folder))
    what = f'epoch of {race.model} at {race.image_size} pixels, {race.steps} batches of {race.batch}'
    for (ours, theirs), target in race.targets.items():
        yield Result(f"{what}: ours in {ours} over open_clip's in {theirs}", epoch[ours] / epoch[theirs], target=target)


def write_pairs(race: Race, folder: Path) -> None:
    """JPEG files and the list of them that both trainers read; the captions are as long as CC3M's."""
    random = np.random.default_rng(0)
    with open(folder / 'pairs.csv', 'w', newline='') as file:
        lines = csv.writer(file)
        lines.writerow(['filepath', 'title'])
        for number, length in enumerate(np.resize(CAPTION_LENGTHS, race.batch * race.steps).tolist()):
            path = folder / f'{number}.jpg'
            cells = random.integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(cells).resize((race.image_size, race.image_size)).save(path, quality=95)
            lines.writerow([path, ' '.join(random.choice(WORDS, length - 2))])


def epoch_seconds(
    commands: Mapping[str, Callable[[int], list[str]]], epochs: tuple[int, int], folder: Path
) -> dict[str, float]:
    """CPU seconds of an epoch of each command: of a longer run minus a shorter one, taken in turns."""
    short, long = epochs
    runs = {(name, length): command(length) for name, command in commands.items() for length in epochs}
    times = [{run: cpu_seconds(command, folder) for run, command in runs.items()} for _ in range(RACE_REPEATS)]
    best = {run: min(time[run] for time in times) for run in runs}
    return {name: (best[name, long] - best[name, short]) / (long - short) for name in commands}


def our_command(race: Race, folder: Path, precision: str, epochs: int) -> list[str]:
    """Trains CLIP on one lightly cropped view, as open_clip's trainer does by default."""
    crop = {'crop_scale': '[0.9,1.0]', 'flip': 0, 'jitter': 0, 'gray': 0, 'blur': 0}
    arguments = {
        'model.architecture': race.model,
        'data.train': folder / 'pairs.csv',
        'data.root': folder,
        'data.cache_dir': folder / 'cache',
        'data.batch_size': race.batch,
        'data.num_workers': 0,
        'data.caption_views': 'null',
        **{f'data.image_views.{name}': value for name, value in crop.items()},
        'trainer.max_epochs': epochs,
        'trainer.precision': precision,
        'trainer.accelerator': 'cpu',
        'trainer.default_root_dir': folder / 'runs',
        'trainer.callbacks': 'null',
        'callbacks.figures': 'null',
    }
    files = ['--config=data/pairs.yaml', '--config=methods/clip.yaml']
    options = [f'--{key}={value}' for key, value in arguments.items()]
    return [sys.executable, '-m', 'experiments.cli', 'fit', *files, *options]


def peer_command(race: Race, folder: Path, peer: Path, precision: str, epochs: int) -> list[str]:
    """The same for open_clip's trainer."""
    configs = Path(clip.__file__).with_name('model_configs')
    arguments = {
        'model': Path(race.model).stem, 'train-data': folder / 'pairs.csv', 'dataset-type': 'csv', 'csv-separator': ',',
        'csv-img-key': 'filepath', 'csv-caption-key': 'title', 'batch-size': race.batch, 'epochs': epochs,
        'workers': 0, 'precision': precision, 'device': 'cpu', 'warmup': 10, 'logs': folder / 'logs',
    }  # fmt: skip
    options = [str(part) for key, value in arguments.items() for part in (f'--{key}', value)]
    return [str(peer), '-c', PEER_LAUNCHER, str(configs), *options]


def cpu_seconds(command: Sequence[str], folder: Path) -> float:
    """CPU seconds of a command that must succeed, user and system, with one thread.

    Raises:
        RuntimeError: If the command fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'WANDB_MODE': 'disabled', 'CUDA_VISIBLE_DEVICES': ''}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}')
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
