#!/usr/bin/env bash
# webdataset 1.0.2 writes a sample whose key holds a dot, and reads another one back.
#
# Versions: webdataset 1.0.2, Python 3.11.
#
# Expected: `TarWriter` gets three samples with the keys 'img.001', 'img.002' and 'img.003', and `WebDataset` reads
# three samples with these keys and the fields 'jpg' and 'txt', or the writer refuses such a key. Most tools take the
# text after the last dot for the extension.
#
# What happens: the reader splits a name at the first dot of its last part. All three have the key 'img' then, so they
# are joined to one sample with the fields '001.jpg', '001.txt', '002.jpg' and so on. A pipeline that keeps samples
# with a picture and a caption (as loaders for CLIP do) drops it without an error: the epoch is empty, or shorter.
# File names with a date, a version or a decimal number as keys are enough. A dot in a folder's name does no harm.
#
# Output seen:
#   written: ['img-001', 'img-002', 'img-003']
#      read: 'img-001' with ['jpg', 'txt']
#      read: 'img-002' with ['jpg', 'txt']
#      read: 'img-003' with ['jpg', 'txt']
#      samples with a jpg and a txt: 3
#   written: ['v1.5/001', 'v1.5/002', 'v1.5/003']
#      read: 'v1.5/001' with ['jpg', 'txt']
#      read: 'v1.5/002' with ['jpg', 'txt']
#      read: 'v1.5/003' with ['jpg', 'txt']
#      samples with a jpg and a txt: 3
#   written: ['img.001', 'img.002', 'img.003']
#      read: 'img' with ['001.jpg', '001.txt', '002.jpg', '002.txt', '003.jpg', '003.txt']
#      samples with a jpg and a txt: 0
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet webdataset==1.0.2

cat > "$folder/main.py" <<'PYTHON'
import sys

import webdataset

ENDINGS = {'jpg', 'txt'}


def round_trip(path, keys):
    with webdataset.TarWriter(path) as writer:
        for key in keys:
            writer.write({'__key__': key, 'jpg': b'bytes of a picture', 'txt': f'caption of {key}'})
    samples = [dict(sample) for sample in webdataset.WebDataset(path, shardshuffle=False)]
    complete = [sample for sample in samples if sample.keys() >= ENDINGS]
    print(f'written: {keys}')
    for sample in samples:
        fields = [name for name in sample if not name.startswith('__')]
        print(f'   read: {sample["__key__"]!r} with {fields}')
    print(f'   samples with a jpg and a txt: {len(complete)}')
    return len(samples), len(complete)


path = sys.argv[1]
as_described = round_trip(path, ['img-001', 'img-002', 'img-003']) == (3, 3)
as_described &= round_trip(path, ['v1.5/001', 'v1.5/002', 'v1.5/003']) == (3, 3)
as_described &= round_trip(path, ['img.001', 'img.002', 'img.003']) == (1, 0)
sys.exit(0 if as_described else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py" "$folder/shard.tar"
