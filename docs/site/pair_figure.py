"""Draws ``docs/images/pair.svg``, the figure of docs/pair.md: ``python docs/site/pair_figure.py``."""

from __future__ import annotations

from html import escape
from pathlib import Path

FILE = Path(__file__).parents[1] / 'images' / 'pair.svg'
WIDTH, HEIGHT = 1000, 700  # units of the drawing
COLUMN, BOX, TALL = 245, 205, 66  # distance of columns, width and height of a box
LEFT = 42
BANDS = (  # top, height, title, color, left end of the title
    (10, 250, 'Once, in setup', '#eef3fb', LEFT),
    (272, 140, 'Every step', '#eef7ee', LEFT),
    (424, 266, "At an epoch's end", '#fbf5e9', LEFT + COLUMN),
)
BOXES = {  # name: column, top, title, what it is, file
    'files': (0, 48, 'Files', 'pictures and captions', 'your disk'),
    'table': (1, 48, 'Table', 'one row for each pair', 'datamodules/csv_pairs.py, ...'),
    'attacks': (2, 48, 'Attacks', 'images, triggers, captions', 'datamodules/attacks/base.py'),
    'poisoned': (3, 48, 'Poisoned table', 'clean rows keep their place', 'attacks/poisoned_table.py'),
    'manifest': (2, 166, 'Manifest', 'which rows are poison', 'attacks/manifest.py'),
    'cache': (3, 166, 'Cache', 'uint8 pictures, tokens', 'pictures/store.py'),
    'sampler': (0, 318, 'Sampler', 'rows of each batch', 'rows/partition.py'),
    'batch': (1, 318, 'Batch', 'pictures, tokens, rows', 'pictures/batches.py'),
    'views': (2, 318, 'Views', 'crop, flip, color; on the device', 'pictures/augment.py'),
    'step': (3, 318, 'Step', 'embeddings, loss, gradient', 'lightning_modules/clip.py'),
    'partition': (0, 466, 'Partition', 'safe, risky or dropped', 'rows/partition.py'),
    'decide': (1, 466, 'Decision', 'mixture and size rule', 'callbacks/repartition.py'),
    'scores': (2, 466, 'Scores', 'clean, augmented or running', 'callbacks/scores.py'),
    'sweep': (3, 466, 'Sweep', 'similarity of every pair', 'callbacks/sweep.py'),
    'metrics': (0, 590, 'Metrics, figures', 'attack success, leaks, ledger', 'callbacks/ledger.py, ...'),
    'evaluation': (1, 590, 'Evaluation sets', 'test images, same triggers', 'evaluation/sets.py'),
}
RIGHT = [('files', 'table'), ('table', 'attacks'), ('attacks', 'poisoned'), ('sampler', 'batch'), ('batch', 'views'),
         ('views', 'step')]  # fmt: skip
BACK = [('sweep', 'scores'), ('scores', 'decide'), ('decide', 'partition'), ('evaluation', 'metrics')]
DOWN = [('attacks', 'manifest'), ('poisoned', 'cache'), ('step', 'sweep')]
TRUTH = 'manifest', 'metrics'


def corner(name: str) -> tuple[int, int]:
    """Upper left corner of a box."""
    column, top = BOXES[name][:2]
    return LEFT + column * COLUMN, top


def arrow(path: str, style: str = 'arrow') -> str:
    """A line with a head at its end."""
    return f'<path class="{style}" d="{path}" marker-end="url(#head)"/>'


def box(name: str) -> str:
    """A box with its three lines."""
    (x, y), (_, _, title, text, file) = corner(name), BOXES[name]
    style = 'truth' if name in TRUTH or name == 'evaluation' else 'box'
    middle = x + BOX / 2
    return '\n'.join([
        f'<rect class="{style}" x="{x}" y="{y}" width="{BOX}" height="{TALL}" rx="7"/>',
        f'<text class="title" x="{middle}" y="{y + 21}">{escape(title)}</text>',
        f'<text class="text" x="{middle}" y="{y + 39}">{escape(text)}</text>',
        f'<text class="file" x="{middle}" y="{y + 56}">{escape(file)}</text>',
    ])  # fmt: skip


def arrows() -> list[str]:
    """All arrows, those of the truth dashed."""
    middle = TALL // 2
    lines = [arrow(f'M{corner(a)[0] + BOX} {corner(a)[1] + middle}H{corner(b)[0] - 3}') for a, b in RIGHT]
    lines += [arrow(f'M{corner(a)[0]} {corner(a)[1] + middle}H{corner(b)[0] + BOX + 3}') for a, b in BACK]
    lines += [arrow(f'M{corner(a)[0] + BOX // 2} {corner(a)[1] + TALL}V{corner(b)[1] - 3}') for a, b in DOWN]
    (cache_x, cache_y), (batch_x, batch_y) = corner('cache'), corner('batch')
    lines.append(arrow(f'M{cache_x + BOX // 2} {cache_y + TALL}V{batch_y - 32}H{batch_x + BOX // 2}V{batch_y - 3}'))
    (side_x, side_y), (_, sampler_y) = corner('partition'), corner('sampler')
    lines.append(arrow(f'M{side_x + BOX // 2} {side_y}V{sampler_y + TALL + 3}'))
    (truth_x, truth_y), (metric_x, metric_y) = (corner(name) for name in TRUTH)
    lines.append(arrow(f'M{truth_x} {truth_y + middle}H24V{metric_y + middle}H{metric_x - 3}', 'arrow dashed'))
    return lines


def drawing() -> str:
    """The figure."""
    bands = [
        f'<rect x="8" y="{top}" width="{WIDTH - 16}" height="{height}" rx="10" fill="{color}"/>'
        f'<text class="band" x="{x}" y="{top + 24}">{title}</text>'
        for top, height, title, color, x in BANDS
    ]
    notes = [
        f'<text class="note" x="{LEFT + 8}" y="190">the truth: read by metrics, ledger and figures</text>',
        f'<text class="note" x="{LEFT + BOX // 2 + 8}" y="444">for the next epoch</text>',
        f'<text class="note" x="{corner("views")[0]}" y="622">Red boxes hold the truth.</text>',
        f'<text class="note" x="{corner("views")[0]}" y="640">No step and no split reads them.</text>',
    ]
    style = """
    text { font-family: system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #222 }
    .title { font-size: 15px; font-weight: 600; text-anchor: middle }
    .text { font-size: 12.5px; text-anchor: middle }
    .file { font-size: 11px; text-anchor: middle; font-family: ui-monospace, Consolas, Menlo, monospace; fill: #555 }
    .band { font-size: 14px; font-weight: 600; fill: #555 }
    .note { font-size: 12.5px; fill: #555 }
    .box { fill: #fff; stroke: #3f51b5; stroke-width: 1.5 }
    .truth { fill: #fff; stroke: #c0392b; stroke-width: 1.5 }
    .arrow { fill: none; stroke: #444; stroke-width: 1.6 }
    .dashed { stroke: #c0392b; stroke-dasharray: 6 4 }"""
    head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">' \
           '<path d="M0 0L8 4L0 8z" fill="#444"/></marker>'  # fmt: skip
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        '<title>How a pair travels from file to table, batch, step and split, and back to the sampler</title>',
        f'<style>{style}\n</style>',
        f'<defs>{head}</defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *bands, *arrows(), *map(box, BOXES), *notes, '</svg>\n',
    ])  # fmt: skip


if __name__ == '__main__':
    FILE.write_text(drawing())
