"""The score ledger: the similarity of every pair, its posterior in the mixture, and its side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast, get_args

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.embedding_files import EmbeddingFiles
from callbacks.harmless import Harmless
from callbacks.mismatches import Mismatches
from callbacks.mixture import Mixture, fit_mixture
from callbacks.separation import separation
from callbacks.shuffled_pairs import ShuffledPairs, draw_sample
from callbacks.sweep import RowSums
from callbacks.vouching import describe_seen, share_seen
from datamodules.contracts import truth_of
from datamodules.files.atomic import write_atomically
from datamodules.pictures.copies import Copies, least_of_copies
from datamodules.rows.partition import DROPPED, RISKY, SAFE
from datamodules.rows.row_sets import blocks, row_numbers
from datamodules.rows.table import PairTable, Strings
from datamodules.usage_error import UsageError

SIDES = {SAFE: 'safe', RISKY: 'risky', DROPPED: 'dropped'}
FILE = 'ledger.parquet'
VERSION_KEY = b'clipward.ledger'  # in the metadata of the file's schema
VERSION = 2  # version 1 is a file without the key; its columns are the same
SEEN_KEY = b'clipward.seen'  # there too: share of the pairs that the model was trained on, if that is known
COLUMNS = ('row', 'key', 'caption', 'similarity', 'posterior', 'side')
P_VALUE = 'p_value'  # a further column, where pairs that do not match were measured
WELL_MATCHED = 0.1  # largest p-value of a pair that `predict` does not count as doubtful
TELLS_ROUGHLY = 0.7  # share of pairs more similar than a shuffled one, below which a model cannot tell which match
FEW = 200  # pairs; two groups of fewer are found by chance
LINES_AT_ONCE = 1 << 20
UID = 'uid'  # a further column, of shards whose samples have one


class ScoreLedger(Callback):
    """Writes ``ledger.parquet`` into the run's folder and logs how well the split tells poison from clean pairs.

    In training this happens at each new split, and only the last ledger is kept. The metrics are
    ``partition/leak/<attack>`` and ``partition/risky_share/<attack>`` (share of the attack's poisons on the safe and on
    the risky side), ``partition/auroc/<attack>`` and ``partition/ap/<attack>`` (how well similarities tell its poisons
    from clean pairs), ``partition/leak_2/<attack>`` and ``partition/leak_10/<attack>`` (share of its poisons that is
    left without the 2 % and the 10 % least similar pairs),
    ``partition/poisons`` and ``partition/contamination`` (number and share of poisons on the safe side). They use the
    ground truth of an experiment, which no defense sees.

    ``predict`` scores every pair of any data set with a trained model and prints how many look like pairs that do not
    match. It also fits a mixture to the scores and prints how many are risky by their posterior. Pairs that were not
    scored are then listed as dropped.

    Args:
        threshold: Minimum posterior, in (0, 1), of a pair that ``predict`` calls safe (paper: 0.9). In training the
            split decides instead.
        copies: How ``predict`` judges pairs with pixel-identical pictures: ``apart``, or ``together``, where each gets
            the largest p-value among them, as in training with the same option of the split.
        embeddings: Whether ``predict`` also writes the embeddings of pictures and captions beside the ledger, for
            ``DensityFilter``: ``image.npy`` and ``text.npy``, float16 (N, D), a row for each line. For a million pairs
            in 512 dimensions they take 2 GB.
    """

    def __init__(self, threshold: float = 0.9, copies: Copies = 'apart', embeddings: bool = False) -> None:
        if not 0 < threshold < 1:
            raise UsageError(f'callbacks.ledger.threshold must lie between 0 and 1, got {threshold}.')
        if copies not in get_args(Copies):
            raise UsageError(f'callbacks.ledger.copies must be apart or together, got {copies!r}.')
        self.threshold, self.copies, self.embeddings = threshold, copies, embeddings
        self.harmless = Harmless('writing the ledger', f'{FILE} stays that of an earlier split, if there is one')
        self._seen: RowSums | None = None
        self._shuffled: ShuffledPairs | None = None
        self._files: EmbeddingFiles | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if truth_of(trainer).partition.scored_after is not None:  # resumed; the ledger on disk may be of a later split
            self._write(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = truth_of(trainer)
        partition = data.partition
        if partition.scored_after != trainer.current_epoch + 1:
            return  # no new split
        self._write(trainer)
        real = len(partition) - data.canary_count
        score, side = partition.score.numpy()[:real], partition.side.numpy()[:real]
        poisons = {attack: data.manifest.rows(attack) for attack in data.manifest.attacks}
        metrics = {f'partition/{name}': value for name, value in separation(side, score, poisons).items()}
        pl_module.log_dict(metrics, sync_dist=True)  # equal on all ranks, but without sync_dist Lightning warns

    def _write(self, trainer: L.Trainer) -> None:
        folder, data = trainer.log_dir, truth_of(trainer)  # a collective call, so all ranks make it
        if folder and trainer.is_global_zero:
            with self.harmless:
                partition = data.partition
                mixture = None if partition.mixture is None else mixture_from(partition.mixture)
                p_value = None if partition.p_value is None else partition.p_value.numpy()
                pairs = data.table.part(slice(0, len(data.table) - data.canary_count))
                parts = ledger_parts(pairs, partition.score.numpy(), partition.side.numpy(), mixture, p_value)
                write_ledger(Path(folder, FILE), parts)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = truth_of(trainer)
        pairs = len(data.table) - data.canary_count
        kept = row_numbers(data.partition.side.numpy()[:pairs] != DROPPED)
        if not len(kept):
            raise UsageError('no pair is left to score: all pictures are unreadable, or left out by data.filters.')
        self._seen = RowSums(len(data.table), pl_module.device, torch.uint8)
        sample = draw_sample(kept)
        self._shuffled = ShuffledPairs(sample, data.tokens[sample])
        folder = trainer.log_dir  # a collective call, so all ranks make it
        if self.embeddings and folder:
            self._files = EmbeddingFiles(trainer, Path(folder), pairs, cast(Any, pl_module).width)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert self._seen is not None and self._shuffled is not None
        self._seen.add(outputs['row'], outputs['similarity'])
        self._shuffled.add(outputs)
        if self._files is not None:
            self._files.add(outputs)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self._seen is not None and self._shuffled is not None
        if self._files is not None:  # before the ranks meet: whoever has the ledger then has all embeddings
            self._files.close()
            self._files = None
        score, null = self._seen.mean(trainer).numpy(), self._shuffled.similarities(trainer).numpy()
        self._seen = self._shuffled = None
        pairs = len(truth_of(trainer).table) - truth_of(trainer).canary_count
        score[pairs:] = math.nan  # canaries, which are no pairs of the user's
        folder = trainer.log_dir  # a collective call, so all ranks make it
        if folder and trainer.is_global_zero:
            mixture = fit_mixture(score)
            cut = mixture.guarded_cut(self.threshold)
            data = truth_of(trainer)
            seen = share_seen(pl_module, data.table, np.isfinite(score))
            is_together = self.copies == 'together'
            judged = least_of_copies(score, data.picture_hashes()) if is_together else score
            p_value = Mismatches(null[np.isfinite(null)]).p_values(judged)
            kept = data.table.part(slice(0, pairs))
            write_ledger(Path(folder, FILE), ledger_parts(kept, score, sides_by(score, cut), mixture, p_value, seen))
            said = filter(
                None,
                [
                    describe_p_values(p_value[:pairs]),
                    summary(score, cut, mixture),
                    describe_seen(seen),
                    f'Ledger: {Path(folder, FILE)}',
                ],
            )
            print('\n' + '\n'.join(said), flush=True)


def ledger(
    table: PairTable,
    score: np.ndarray,
    side: np.ndarray,
    mixture: Mixture | None,
    p_value: np.ndarray | None = None,
    seen: float | None = None,
) -> pa.Table:
    """Makes a table with one line for each pair, in the order of the rows.

    Args:
        table: The pairs.
        score: Similarity of each pair, (N,), NaN where it was not scored.
        side: Side of each pair, (N,).
        mixture: The mixture that gives the posterior.
        p_value: Share of mismatched pairs that are at least as similar as each pair, (N,), NaN where unknown.
        seen: Fraction of the pairs that the model was trained on, if that is known.

    Returns:
        The columns row, key (name of the picture: its path, or the shard and the key of its sample), caption,
        similarity, posterior and side; p_value, if any is known; and uid, if any sample of a shard has one. Similarity
        and posterior are null for pairs that were not scored; without a fitted mixture every posterior is null. Unlike
        the side, the posterior need not rise with the similarity. The schema's metadata holds the version of the
        format, and ``seen``.
    """
    return pa.concat_tables(ledger_parts(table, score, side, mixture, p_value, seen))


def ledger_parts(
    table: PairTable,
    score: np.ndarray,
    side: np.ndarray,
    mixture: Mixture | None,
    p_value: np.ndarray | None = None,
    seen: float | None = None,
) -> Iterator[pa.Table]:
    """Makes the lines of :func:`ledger`, some at a time; what is given about rows after the last is left out."""
    metadata = {VERSION_KEY: str(VERSION)} if seen is None else {VERSION_KEY: str(VERSION), SEEN_KEY: f'{seen:.4f}'}
    known = None if p_value is None or np.isnan(p_value).all() else p_value
    uid = table.keys.get(UID)
    has_uid = uid is not None and uid.null_count < len(uid)
    for block in blocks(len(table), LINES_AT_ONCE):
        lines = _lines(table.part(block), block.start, score[block], side[block], mixture)
        if known is not None:
            lines[P_VALUE] = pa.array(known[block], pa.float32(), mask=np.isnan(known[block]))
        if has_uid:
            lines[UID] = table.keys[UID].slice(block.start, LINES_AT_ONCE)
        yield pa.table(lines).replace_schema_metadata(metadata)


def _lines(
    table: PairTable, first: int, score: np.ndarray, side: np.ndarray, mixture: Mixture | None
) -> dict[str, Strings]:
    """The columns that every ledger has, of the pairs of a table, the first of which is row ``first`` of all."""
    posterior = np.full(len(score), math.nan)
    if mixture is not None and mixture.state == 'fitted':
        posterior = mixture.posterior(score)
    side_names = pa.DictionaryArray.from_arrays(pa.array(side), pa.array([SIDES[i] for i in range(len(SIDES))]))
    return {
        'row': pa.array(np.arange(first, first + len(table))),
        'key': table.names(),
        'caption': table.caption,
        'similarity': pa.array(score, pa.float32(), mask=np.isnan(score)),
        'posterior': pa.array(posterior.astype(np.float32), mask=np.isnan(posterior)),
        'side': side_names.cast(pa.string()),
    }


def write_ledger(path: Path, parts: Iterable[pa.Table]) -> None:
    """Replaces the file atomically: a run killed meanwhile leaves the ledger of the previous split.

    Args:
        path: The file.
        parts: Consecutive lines, each part a group of rows of the file; only one is in memory at a time.
    """
    remaining = iter(parts)
    first = next(remaining)
    with write_atomically(path) as temporary, pq.ParquetWriter(temporary, first.schema) as temporary_file:
        for part in chain([first], remaining):
            temporary_file.write_table(part)


def read_ledger(
    path: str | Path, columns: Sequence[str] = (*COLUMNS, P_VALUE, UID), rows: Sequence[int] | None = None
) -> pa.Table:
    """Reads a ledger of this version or of version 1, which is converted.

    Args:
        path: A file that :class:`ScoreLedger` has written.
        columns: What to read of it, as far as it is there.
        rows: Rows to read, in any order; ``None`` for all. Either way they come in the order of the file.

    Returns:
        The table that :func:`ledger` describes.

    Raises:
        UsageError: If the file is missing, is not a ledger, or has an unknown version.
    """
    try:
        schema = pq.read_schema(path)
        present = [name for name in columns if name in schema.names]
        chosen = None if rows is None else pc.field('row').isin(rows)
        lines = pq.read_table(path, columns=present, filters=chosen)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f'{path} cannot be read as a ledger: {error}'.splitlines()[0]) from error
    metadata = schema.metadata or {}
    version = metadata.get(VERSION_KEY, b'1').decode()
    if version not in ('1', str(VERSION)):
        raise UsageError(
            f'{path} is a ledger of version {version}, but this release reads versions 1 and {VERSION}: read it with '
            f'the release that wrote it.'
        )
    if not {*COLUMNS} <= {*schema.names}:
        raise UsageError(f'{path} is not a ledger: it needs the columns {", ".join(COLUMNS)}.')
    return lines.replace_schema_metadata({**metadata, VERSION_KEY: str(VERSION).encode()})


def mixture_from(parameters: dict[str, float]) -> Mixture:
    """Rebuilds a fitted mixture from the parameters that a partition stores."""
    low, high = ({name: parameters[f'{name}_{end}'] for name in ('mean', 'sd', 'weight')} for end in ('low', 'high'))
    return Mixture((low['mean'], high['mean']), (low['sd'], high['sd']), (low['weight'], high['weight']))


def sides_by(score: np.ndarray, cut: float | None) -> np.ndarray:
    """Sides, int8 (N,): dropped without a score, safe at or above the cut, else risky; none is safe without a cut."""
    side = np.full(len(score), RISKY, np.int8)
    side[score >= (math.inf if cut is None else cut)] = SAFE
    side[~np.isfinite(score)] = DROPPED
    return side


def describe_p_values(p_value: np.ndarray) -> str:
    """How many pairs look like mismatched ones, in words, and whether to believe it; empty if no p-value is known."""
    known = p_value[~np.isnan(p_value)]
    if not len(known):
        return ''
    doubtful, told = int((known > WELL_MATCHED).sum()), 1 - float(known.mean())
    said = (
        f'{doubtful:,} of {len(known):,} pairs ({doubtful / len(known):.1%}) look like pairs that do not match: more '
        f'than {WELL_MATCHED:.0%} of shuffled pairs are at least as similar (p_value above {WELL_MATCHED:g}).'
    )
    if told >= TELLS_ROUGHLY:
        return said
    return (
        f'{said} But in only {told:.0%} of comparisons, the model finds a pair more similar than a picture with '
        f'another caption: unless most pairs do not match, it cannot tell which do.'
    )


def summary(score: np.ndarray, cut: float | None, mixture: Mixture) -> str:
    """What the mixture says about the scores, in words."""
    scored = int((~np.isnan(score)).sum())
    if mixture.state != 'fitted':
        return f'The similarities of {scored:,} pairs do not form two groups ({mixture.state}): all count as risky.'
    low, high = mixture.means
    groups = f'two groups around similarities of {low:.3f} and {high:.3f}'
    if cut is None:
        return f'{scored:,} pairs form {groups} that overlap too much to trust any of them: all count as risky.'
    risky = int((score < cut).sum())
    share = f'{risky:,} of {scored:,} pairs ({risky / scored:.1%})'
    few = f' {scored} pairs are too few to tell groups apart: look at the least similar ones.' if scored < FEW else ''
    return f'{share} are risky by their posterior: their similarity is below {cut:.3f}. All pairs form {groups}.{few}'
