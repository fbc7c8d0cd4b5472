#!/usr/bin/env bash
# img2dataset 1.47.0 writes rows and samples in the order in which downloads ended, under keys that count the list.
#
# Versions: img2dataset 1.47.0, pandas 2.3.3, numpy 2.4.6, opencv-python-headless 4.14.0.94, Python 3.11.
#
# Expected: the output of one list is in the order of the list: picture 000000000 is the first row of 00000.parquet, and
# the first sample of 00000.tar. Then the pictures of a folder, sorted by name, belong to the table's successful rows one
# by one, and two downloads of one list make the same data set.
#
# What happens: the keys follow the list, but everything else is in the order in which the servers answered, failures in
# between. Joining sorted pictures and rows by position gives as many of both, and nearly every picture gets the caption of
# another, without an error. A choice by position, such as a seeded split or poisons planted in the n-th row, is a choice of
# other pictures after the next download. The column `key` joins them rightly.
#
# The script serves five pictures of its own from this machine. The first takes longest; the third is missing.
#
# Output seen:
#   keys in the table         [4, 3, 2, 1, 0]
#   keys in the tar           [4, 3, 1, 0]
#   sorted pictures           [0, 1, 3, 4]
#   captions by position      ['caption 4', 'caption 3', 'caption 1', 'caption 0']
#   captions by key           ['caption 0', 'caption 1', 'caption 3', 'caption 4']
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet img2dataset==1.47.0 pandas==2.3.3 numpy==2.4.6 \
    opencv-python-headless==4.14.0.94

cat > "$folder/main.py" <<'PYTHON'
import os
import sys
import tarfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pandas as pd

PICTURES, MISSING = 5, 2


class Pictures(BaseHTTPRequestHandler):
    """Serves /0.png to /4.png, the later the faster."""

    def do_GET(self):
        number = int(self.path[1:].removesuffix('.png'))
        time.sleep(PICTURES - 1 - number)
        if number == MISSING:
            return self.send_error(404)
        content = cv2.imencode('.png', np.full((64, 64, 3), 40 * number, np.uint8))[1].tobytes()
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def fetch(listed, output, form):
    from img2dataset import download

    download(str(listed), output_folder=str(output), output_format=form, input_format='parquet', url_col='url',
             caption_col='caption', image_size=64, retries=0, processes_count=1, thread_count=PICTURES)


if __name__ == '__main__':
    os.environ.update(NO_ALBUMENTATIONS_UPDATE='1', no_proxy='127.0.0.1')
    base = Path(sys.argv[1])
    server = ThreadingHTTPServer(('127.0.0.1', 0), Pictures)
    Thread(target=server.serve_forever, daemon=True).start()
    urls = [f'http://127.0.0.1:{server.server_port}/{number}.png' for number in range(PICTURES)]
    captions = [f'caption {number}' for number in range(PICTURES)]
    pd.DataFrame({'url': urls, 'caption': captions}).to_parquet(base / 'list.parquet')
    for form in ('files', 'webdataset'):
        fetch(base / 'list.parquet', base / form, form)
    table = pd.read_parquet(base / 'files/00000.parquet')
    with tarfile.open(base / 'webdataset/00000.tar') as tar:
        shard = [int(Path(name).stem) for name in tar.getnames() if name.endswith('.jpg')]
    pictures = sorted(path.stem for path in (base / 'files/00000').glob('*.jpg'))
    fetched = table[table['status'] == 'success']
    results = {
        'keys in the table': table['key'].astype(int).to_list(),
        'keys in the tar': shard,
        'sorted pictures': [int(picture) for picture in pictures],
        'captions by position': fetched['caption'].to_list(),
        'captions by key': fetched.set_index('key').loc[pictures, 'caption'].to_list(),
    }
    for name, values in results.items():
        print(f'{name:<25} {values}')
    right = [f'caption {number}' for number in (0, 1, 3, 4)]
    expected = [[4, 3, 2, 1, 0], [4, 3, 1, 0], [0, 1, 3, 4], right[::-1], right]
    sys.exit(0 if [*results.values()] == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/main.py" "$folder" 2> "$folder/log" | grep -E '^(keys|sorted|captions) ' ||
    { cat "$folder/log"; exit 1; }
