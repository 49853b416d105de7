"""The transfer study as files: report.html and report.md from one list of blocks, plots, study.json."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from compactdet.files import check_writable, write_whole
from compactdet.leaderboard.board import FIGURES
from compactdet.transfer import findings, plots
from compactdet.transfer.correlation import EXACT_ORDERS, MANY, MIN_NETS, RESAMPLES, RESAMPLES_OF_MANY, Fit
from compactdet.transfer.findings import figure
from compactdet.transfer.sources import Net
from compactdet.transfer.study import SettingStudy, Study

METHOD = (
    'A setting is everything that must be equal for two results to be compared: for own runs the protocol '
    'and the data set of the pretraining, for published results the paper and the setting of its table. '
    'Settings are '
    'never pooled: a pair of networks counts within its setting only.',
    'ρ is Spearman\'s rank correlation, τ is Kendall\'s τ-b; ρ given the multiply-adds is the rank partial '
    'correlation, 0 where cost orders the networks exactly as AP or accuracy does. In brackets: 95 % BCa '
    f'bootstrap intervals from {RESAMPLES:,} resamples of the networks ({RESAMPLES_OF_MANY:,} of more than '
    f'{MANY}); none below {MIN_NETS} networks. They say '
    'how far the figure depends on which networks were measured, not on seeds.',
    'How often a random order gives a ρ as far from 0: counted over all orders of up to 8 networks, over '
    f'{EXACT_ORDERS:,} random ones beyond.',
    'Deviations from what accuracy (and the logarithm of the multiply-adds) predicts: least squares, '
    't = externally studentized residual; a network is named if p < 0.05 after multiplying by the number '
    'of networks (Bonferroni).',
    'A network stands for one arch and one pretraining recipe. Runs that differ in the seed, and weights '
    'that differ in the seed, are averaged; ± is the standard deviation over runs.',
)  # fmt: skip


CONTRASTS = {'pretraining': 'Pretrained against random weights', 'freezing': 'Fine-tuned against frozen'}


@dataclass(frozen=True)
class Links:
    """A table cell with links to files: (label, path relative to the report)."""

    links: tuple[tuple[str, str], ...]


Cell = str | Links


@dataclass(frozen=True)
class Block:
    """A part of the report: 'heading', 'text', 'list', 'table' or 'picture'."""

    kind: str
    text: str = ''
    level: int = 2
    items: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    picture: str = ''
    svg: bytes = field(default=b'', repr=False)


def write(study: Study, folder: Path) -> list[Path]:
    """Write the report's files into a folder, which is created if necessary; all paths are tried first.

    Returns:
        The files, report.html first.

    Raises:
        UserError: A file cannot be written.
    """
    pictures = {f'scatter_{i}': plots.scatter(s) for i, s in enumerate(study.settings, 1)}
    blocks = make_blocks(study, {name: kinds['svg'] for name, kinds in pictures.items()}, folder)
    data = json.dumps(study.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    files: dict[str, str | bytes] = {
        'report.html': to_page(blocks),
        'report.md': to_markdown(blocks),
        'study.json': data + '\n',
    }
    for name, kinds in pictures.items():
        files |= {f'{name}.{kind}': content for kind, content in kinds.items()}
    for file in files:
        check_writable(folder / file)
    for file, content in files.items():
        if isinstance(content, str):  # a lone surrogate cannot be encoded
            content = content.encode(errors='replace')
        write_whole(folder / file, content)
    return [folder / file for file in files]


def make_blocks(study: Study, svgs: dict[str, bytes], folder: Path) -> list[Block]:
    """Return the blocks of the report.

    Args:
        study: The study.
        svgs: One picture per setting, by file name without suffix, in the order of the settings.
        folder: Folder of the report, to which links are relative.
    """
    blocks = [Block('heading', 'Does classification accuracy predict detection AP?', level=1)]
    found = findings.pair_sentences(study)
    if found:
        blocks.append(Block('list', items=tuple(found)))
    for part, (name, svg) in zip(study.settings, svgs.items(), strict=True):
        blocks += _setting(part, name, svg, folder)
    if study.agreements:
        sentences = tuple(map(findings.agreement_sentence, study.agreements))
        blocks += [Block('heading', 'One setting against another'), Block('list', items=sentences)]
    for contrast in study.contrasts:
        rows = tuple((name, f'{a:.1f}', f'{b:.1f}', f'{a - b:+.1f}') for name, a, b in contrast.nets)
        blocks += [
            Block('heading', CONTRASTS[contrast.kind]),
            Block('text', f'{contrast.a} against {contrast.b}'),
            Block('list', items=tuple(findings.contrast_sentences(contrast))),
            Block('table', head=('net', 'AP', 'AP of the other', 'difference'), rows=rows),
        ]
    left_out = [f'{item.what}: {item.why}.' for item in study.left_out]
    not_answered = (*findings.absent(study), *left_out)
    if not_answered:
        blocks += [Block('heading', 'Not answered, left out'), Block('list', items=not_answered)]
    return [*blocks, Block('heading', 'How it was computed'), Block('list', items=METHOD)]


def _setting(part: SettingStudy, name: str, svg: bytes, folder: Path) -> list[Block]:
    cost = part.cost
    notes = dict.fromkeys(net.note for net in part.nets if net.note)
    remarks = [f'{", ".join(n.name for n in part.nets if n.note == note)}: {note}.' for note in notes]
    blocks = [
        Block('heading', part.setting.title),
        Block('list', items=tuple(findings.setting_sentences(part))),
    ]
    if len(part.nets) >= findings.LEAST:
        blocks.append(Block('picture', f'Accuracy against AP: {part.setting.title}', picture=name, svg=svg))
    blocks.append(_nets(part, folder))
    off = ' Residual: points of AP above (+) or below (-) the fit.' if part.line else ''
    blocks.append(Block('text', f'Cost: {part.setting.cost}.{off}'))
    if remarks:
        blocks.append(Block('list', items=tuple(remarks)))
    if len(part.nets) >= MIN_NETS:
        estimates = [('ρ of accuracy and AP', part.spearman), ('τ of accuracy and AP', part.kendall)]
        if cost:
            estimates += [
                ('ρ of accuracy and AP given multiply-adds', cost.partial),
                ('ρ of multiply-adds and AP', cost.ap),
                ('ρ of multiply-adds and accuracy', cost.accuracy),
            ]
        estimates += [(f'ρ of accuracy and AP without {w.family}', w.rho) for w in part.without]
        rows = tuple((label, figure(e), str(e.n), e.note or '-') for label, e in estimates)
        blocks.append(Block('table', head=('estimate', 'value and interval', 'n', 'remark'), rows=rows))
    return blocks


def _nets(part: SettingStudy, folder: Path) -> Block:
    """Return the table of networks by AP, best first."""
    plane = part.cost.plane if part.cost else None
    ap = FIGURES.get(part.setting.figure, part.setting.figure)
    head = ['net', 'family', 'top-1, %', f'{ap}, %', 'multiply-adds, M']
    head += ['residual, accuracy', 'residual, accuracy and cost'] if part.line else []
    rows = []
    for i, net in sorted(enumerate(part.nets), key=lambda item: (-item[1].ap, item[1].name)):
        cost = '-' if net.cost is None else f'{net.cost:,.0f}'
        row: list[Cell] = [net.name, net.family, f'{net.accuracy:.1f}', _ap(net), cost]
        row += [_residual(part.line, i), _residual(plane, i)] if part.line else []
        rows.append((*row, _source(net, folder)))
    return Block('table', head=(*head, 'source'), rows=tuple(rows))


def _ap(net: Net) -> str:
    return f'{net.ap:.1f}' + ('' if net.spread is None else f' ± {net.spread:.1f}')


def _residual(fit: Fit | None, index: int) -> str:
    return '-' if fit is None else f'{round(fit.residuals[index], 1) + 0.0:+.1f}'  # no -0.0


def _source(net: Net, folder: Path) -> Cell:
    """Return links to records by seed; the name of a table unchanged."""
    if not net.seeds:
        return ', '.join(net.sources)
    paths = (Path(os.path.relpath(source, folder)).as_posix() for source in net.sources)
    return Links(tuple((f'seed {s}', p) for s, p in zip(net.seeds, paths, strict=True)))


# Markdown


def to_markdown(blocks: Sequence[Block]) -> str:
    """Return the report in Markdown."""
    parts = []
    for block in blocks:
        if block.kind == 'heading':
            parts.append(f'{"#" * block.level} {_escape(block.text)}')
        elif block.kind == 'text':
            parts.append(_escape(block.text))
        elif block.kind == 'list':
            parts.append('\n'.join(f'* {_escape(item)}' for item in block.items))
        elif block.kind == 'picture':
            parts.append(f'![{_escape(block.text)}]({block.picture}.svg)')
        else:
            lines = [map(_escape, block.head), ['---'] * len(block.head)]
            lines += [[_markdown_cell(cell) for cell in row] for row in block.rows]
            parts.append('\n'.join('| ' + ' | '.join(line) + ' |' for line in lines))
    return '\n\n'.join(parts) + '\n'


def _escape(text: str) -> str:
    """Return a text without Markdown or HTML in it, on one line."""
    return re.sub(r'([\\`*_\[\]<>|#])', r'\\\1', ' '.join(text.split()))


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _escape(cell)
    return ' '.join(f'[{label}]({quote(os.fsencode(path))})' for label, path in cell.links)


# The page

CSS = """
:root { color-scheme: light dark; --ink: #1b1b1c; --paper: #fff; --line: #d0d0d4; --link: #0059a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e7ea; --paper: #17181a; --line: #3c3d42; --link: #7cc0ff; }
}
body { margin: 0; background: var(--paper); }
.transfer { color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; max-width: 62rem; margin: auto;
  padding: 1rem; overflow-wrap: anywhere; }
.transfer h1 { font-size: 1.5rem; line-height: 1.25; }
.transfer h2 { font-size: 1.15rem; line-height: 1.3; margin-top: 2.5rem; border-top: 1px solid var(--line);
  padding-top: 1rem; }
.transfer ul { padding-left: 1.2rem; }
.transfer li { margin: .35rem 0; }
.transfer a { color: var(--link); }
.transfer figure, .transfer .table { margin: 1rem 0; overflow-x: auto; }
.transfer svg { display: block; width: 100%; min-width: 28rem; max-width: 38rem; height: auto; }
.transfer table { border-collapse: collapse; font-size: .875rem; overflow-wrap: normal; }
.transfer th, .transfer td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
.transfer .number { text-align: right; font-variant-numeric: tabular-nums; }
.transfer td.number { white-space: nowrap; }
"""


def to_page(blocks: Sequence[Block]) -> str:
    """Return the report as one page without external resources, except links to records."""
    title = html.escape(blocks[0].text)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{to_section(blocks)}\n</body>\n</html>\n'
    )


def to_section(blocks: Sequence[Block]) -> str:
    """Return the report as a part of a page that contains ``CSS``."""
    parts = []
    for block in blocks:
        text = html.escape(block.text)
        if block.kind == 'heading':
            parts.append(f'<h{block.level}>{text}</h{block.level}>')
        elif block.kind == 'text':
            parts.append(f'<p>{text}</p>')
        elif block.kind == 'list':
            items = ''.join(f'<li>{html.escape(item)}</li>' for item in block.items)
            parts.append(f'<ul>{items}</ul>')
        elif block.kind == 'picture':
            parts.append(f'<figure tabindex="0">{plots.inline(block.svg, block.text)}</figure>')
        else:
            kinds = [
                ' class="number"' if all(map(_is_number, cells)) else ''
                for cells in zip(*block.rows, strict=True)
            ]
            heads = zip(block.head, kinds, strict=True)
            head = ''.join(f'<th scope="col"{kind}>{html.escape(cell)}</th>' for cell, kind in heads)
            body = ''.join('<tr>' + ''.join(map(_html_cell, row, kinds)) + '</tr>' for row in block.rows)
            table = f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
            parts.append(f'<div class="table" tabindex="0">{table}</div>')
    return '<section class="transfer">\n' + '\n'.join(parts) + '\n</section>'


def _html_cell(cell: Cell, kind: str) -> str:
    if isinstance(cell, Links):
        links = (
            f'<a href="{html.escape(quote(os.fsencode(path)))}">{html.escape(label)}</a>'
            for label, path in cell.links
        )
        return f'<td>{" ".join(links)}</td>'
    return f'<td{kind}>{html.escape(cell)}</td>'


def _is_number(cell: Cell) -> bool:
    number = r'[+-]?[\d,.]+( ± [\d.]+| \[[-\d.]+, [-\d.]+\])?|-|not defined'
    return isinstance(cell, str) and re.fullmatch(number, cell) is not None
