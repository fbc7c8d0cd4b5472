"""Write a few numbered pairs in the forms in which data sets are published or stored after a download."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.picture_files import picture, write_picture

Caption = Callable[[int], str]
caption_with_number: Caption = 'caption {}'.format


def write_list(path: Path, lines: Iterable[str]) -> str:
    """Writes a text file of lines, such as CC3M's list, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')
    return str(path)


def write_part(folder: Path, numbers: Sequence[int], metadata: bool, caption: Caption = caption_with_number) -> None:
    """Writes one folder of img2dataset's files, with captions in its metadata table or beside each image."""
    for number in numbers:
        write_picture(folder / f'{number:09d}.jpg', number)
        if not metadata:
            (folder / f'{number:09d}.txt').write_text(caption(number))
    if metadata:
        keys, captions = zip(*[(f'{number:09d}', caption(number)) for number in reversed(numbers)], strict=True)
        table = pa.table({'url': ['u'] * len(numbers), 'caption': captions, 'key': keys})
        pq.write_table(table, folder.with_name(f'{folder.name}.parquet'))


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    """Writes a tar file with these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def samples(numbers: Iterable[int], folder: str = '', caption: Caption = caption_with_number) -> dict[str, bytes]:
    """Returns the members that img2dataset puts into a shard: picture, caption and metadata for each key."""
    members: dict[str, bytes] = {}
    for number in numbers:
        key = f'{folder}{number:09d}'
        members |= {f'{key}.jpg': picture(number), f'{key}.txt': caption(number).encode()}
        members |= {f'{key}.json': json.dumps({'caption': 'not this one', 'class': f'c{number % 2}'}).encode()}
    return members


# --- data sets with several captions for each image -----------------------------------------------------------------


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco_name(number: int, part: str, year: int) -> str:
    """Returns COCO's file name of an image; only the older release has the year in it."""
    return f'COCO_{part}{year}_{number:012d}.jpg' if year == 2014 else f'{number:012d}.jpg'


def write_coco(
    root: Path,
    captions: Mapping[int, Sequence[str]],
    part: str = 'train',
    year: int = 2014,
    strays: Mapping[int, Sequence[str]] | None = None,
    absent: Collection[int] = (),
) -> Path:
    """Writes the images and the annotation file of COCO, and returns the path of the latter.

    Args:
        root: Folder of the data set.
        captions: Captions of each image, by its number.
        part: ``train`` or ``val``.
        year: 2014 or 2017.
        strays: Captions of images that the file does not list.
        absent: Images that the file lists but that are not written.
    """
    (root / f'{part}{year}').mkdir(parents=True)
    for number in captions.keys() - set(absent):
        write_picture(root / f'{part}{year}' / coco_name(number, part, year), number)
    listed = [{'license': 1, 'file_name': coco_name(n, part, year), 'height': 8, 'width': 8, 'id': n} for n in captions]
    written = [(n, caption) for several in (captions, strays or {}) for n, own in several.items() for caption in own]
    annotations = [{'image_id': n, 'id': 100 + place, 'caption': caption} for place, (n, caption) in enumerate(written)]
    annotations = annotations[::2] + annotations[1::2]  # as published, captions of an image are not adjacent
    content = {'info': {'year': year}, 'images': listed, 'licenses': [{'id': 1}], 'annotations': annotations}
    return write_json(root / 'annotations' / f'captions_{part}{year}.json', content)


def write_visual_genome(
    root: Path, phrases: Mapping[int, Sequence[str]], unknown: Collection[int] = (), absent: Collection[int] = ()
) -> Path:
    """Writes Visual Genome's two files and its images, those of odd number into the second folder.

    Args:
        root: Folder of the data set.
        phrases: Descriptions of each image's regions, by its number.
        unknown: Images that ``image_data.json`` does not list.
        absent: Images that are not written.
    """
    places = {number: f'VG_100K{"_2" * (number % 2)}/{number}.jpg' for number in phrases}
    for number in phrases.keys() - set(absent):
        write_picture(root / places[number], number)
    address = 'https://cs.stanford.edu/people/rak248/{}'.format
    data = [{'width': 8, 'url': address(place), 'height': 8, 'image_id': n} for n, place in places.items()]
    write_json(root / 'image_data.json', [item for item in data if item['image_id'] not in unknown])
    regions = [
        {'regions': [{'region_id': place, 'image_id': n, 'phrase': p, 'x': 0} for place, p in enumerate(own)], 'id': n}
        for n, own in phrases.items()
    ]
    return write_json(root / 'region_descriptions.json', regions)


def flickr_name(number: int) -> str:
    return f'{1000 + number}_ab{number}.jpg'


def write_flickr(
    root: Path, captions: Mapping[int, Sequence[str]], form: str, splits: Mapping[str, Sequence[int]] | None = None
) -> Path:
    """Writes the photos of Flickr8k and its captions in one of the published forms.

    Args:
        root: Folder of the data set.
        captions: Captions of each photo, by its number.
        form: Name of the caption file, which determines its form.
        splits: Photos of each split.
    """
    for number in captions:
        write_picture(root / 'Images' / flickr_name(number), number)
    pairs = [(number, place, caption) for number, own in captions.items() for place, caption in enumerate(own)]
    if form == 'dataset_flickr8k.json':
        split_of = {number: split for split, numbers in (splits or {}).items() for number in numbers}
        images = [
            {
                'sentids': [],
                'imgid': number,
                'sentences': [{'tokens': caption.split(), 'raw': caption, 'imgid': number} for caption in own],
                'split': split_of.get(number, 'none'),
                'filename': flickr_name(number),
            }
            for number, own in captions.items()
        ]
        return write_json(root / form, {'images': images, 'dataset': 'flickr8k'})
    for split, numbers in (splits or {}).items():
        official = {'val': 'dev'}.get(split, split)
        write_list(root / f'Flickr_8k.{official}Images.txt', map(flickr_name, numbers))
    if form == 'captions.txt':
        with (root / form).open('w', newline='') as file:
            csv.writer(file).writerows([('image', 'caption'), *((flickr_name(n), caption) for n, _, caption in pairs)])
        return root / form
    if form == 'results.csv':
        lines = [f'{flickr_name(n)}| {place}| {caption}' for n, place, caption in pairs]
        return Path(write_list(root / form, ['image_name| comment_number| comment', *lines]))
    return Path(write_list(root / form, (f'{flickr_name(n)}#{place}\t{caption}' for n, place, caption in pairs)))


def write_people(root: Path, photos: Mapping[str, int]) -> None:
    """Writes one folder of photos for each person; photos of the first person in sorted order show 0."""
    for number, (person, count) in enumerate(sorted(photos.items())):
        for photo in range(count):
            write_picture(root / person / f'{photo:03d}.jpg', number)
