from __future__ import annotations

import json
from pathlib import Path

from experiments.clip_benchmark import write_records
from experiments.results import Result

SERIES = {
    'asr/badnet/rate': 0.9,
    'zero_shot/heldout': 0.5,
    'zero_shot_top5/heldout': 0.8,
    'zero_shot/toys/x': 0.4,
    **{f'retrieval/heldout/{way}_{what}': 0.1 for way in ('i2t', 't2i') for what in ('r1', 'r5', 'r10', 'medr')},
    'retrieval/heldout/t2i_r5': 0.3,
}


def test_results_are_written_as_clip_benchmark_would(tmp_path: Path) -> None:
    series = {metric: [(1, 0.0), (2, value)] for metric, value in SERIES.items()}
    write_records([Result('clip/version_0', 7, 2, series, 1.0)], tmp_path)
    written = {file.name: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    assert written.keys() == {
        'heldout_seed7_clip_version_0_en_zeroshot_classification.json',
        'toys_x_seed7_clip_version_0_en_zeroshot_classification.json',
        'heldout_seed7_clip_version_0_en_zeroshot_retrieval.json',
    }
    first = written['heldout_seed7_clip_version_0_en_zeroshot_classification.json']
    assert first == {
        'dataset': 'heldout', 'model': 'clip/version_0', 'pretrained': 'seed7', 'task': 'zeroshot_classification',
        'metrics': {'acc1': 0.5, 'acc5': 0.8}, 'language': 'en',
    }  # fmt: skip
    retrieval = written['heldout_seed7_clip_version_0_en_zeroshot_retrieval.json']['metrics']
    assert retrieval['image_retrieval_recall@5'] == 0.3 and retrieval['text_retrieval_recall@5'] == 0.1
    assert len(retrieval) == 6
