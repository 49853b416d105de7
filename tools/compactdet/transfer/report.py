"""Files of the transfer study: report.html and report.md with the same content, plots, study.json."""

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
from compactdet.leaderboard.groups import METRICS
from compactdet.transfer import findings, plots
from compactdet.transfer.correlation import (
    MANY,
    MIN_NETWORKS,
    PERMUTATIONS,
    RESAMPLES,
    RESAMPLES_OF_MANY,
    Fit,
)
from compactdet.transfer.findings import format_estimate
from compactdet.transfer.sources import NetworkResult
from compactdet.transfer.study import SettingStudy, Study

METHODS = (
    'A setting is everything that must be equal for two results to be compared: for own runs the protocol '
    'and the data set of the pretraining, for published results the paper and the setting of its table. '
    'Settings are never pooled: both networks of a pair are of the same setting.',
    "ρ is Spearman's rank correlation, and τ is Kendall's τ-b. ρ given the multiply-adds is the partial "
    'rank correlation; it is 0 if cost orders the networks exactly as AP or accuracy does. Brackets '
    f'contain 95 % BCa bootstrap intervals from {RESAMPLES:,} resamples of the networks '
    f'({RESAMPLES_OF_MANY:,} for more than {MANY} networks); there is none for fewer than '
    f'{MIN_NETWORKS} networks. An interval covers the choice of networks, not the variation over seeds.',
    'The probability that a random order gives a ρ at least as far from 0 is computed over all orders of '
    f'up to 8 networks, and over {PERMUTATIONS:,} random orders for more networks.',
    'Residuals are those of least-squares fits of AP on accuracy, or on accuracy and the logarithm of the '
    'multiply-adds; t is the externally studentized residual. A network is an outlier if p < 0.05, where p '
    'is multiplied by the number of networks (Bonferroni).',
    'A network is one arch with one pretraining recipe. AP is averaged over the seeds of the runs and '
    'accuracy over the seeds of the weights; ± is the standard deviation over runs.',
)

CONTRAST_TITLES = {
    'pretraining': 'Pretrained and random weights',
    'freezing': 'Fine-tuned and frozen stages',
}


@dataclass(frozen=True)
class Links:
    """A table cell with links to files: (label, path relative to the report)."""

    links: tuple[tuple[str, str], ...]


Cell = str | Links


@dataclass(frozen=True)
class Block:
    """A part of the report.

    Attributes:
        kind: 'heading', 'text', 'list', 'table' or 'plot'.
        text: Heading, text, or alternative text of a plot.
        level: Level of a heading, from 1.
        items: Items of a list.
        head: Head of a table.
        rows: Rows of a table.
        plot: File name of a plot without suffix.
        svg: The plot.
    """

    kind: str
    text: str = ''
    level: int = 2
    items: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    plot: str = ''
    svg: bytes = field(default=b'', repr=False)


def write_report(study: Study, folder: Path) -> list[Path]:
    """Write the files of the report into a folder, which is created if necessary.

    Returns:
        The files, report.html first.

    Raises:
        UserError: A file cannot be written. This is checked for all files before one is written.
    """
    plots_by_name = {f'scatter_{i}': plots.draw_scatter(s) for i, s in enumerate(study.settings, 1)}
    blocks = make_blocks(study, {name: kinds['svg'] for name, kinds in plots_by_name.items()}, folder)
    data = json.dumps(study.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
    files: dict[str, str | bytes] = {
        'report.html': to_page(blocks),
        'report.md': to_markdown(blocks),
        'study.json': data + '\n',
    }
    for name, kinds in plots_by_name.items():
        files |= {f'{name}.{kind}': content for kind, content in kinds.items()}
    for file in files:
        check_writable(folder / file)
    for file, content in files.items():
        if isinstance(content, str):  # a name may contain a lone surrogate, which cannot be encoded
            content = content.encode(errors='replace')
        write_whole(folder / file, content)
    return [folder / file for file in files]


def make_blocks(study: Study, svgs: dict[str, bytes], folder: Path) -> list[Block]:
    """Return the blocks of the report.

    Args:
        study: The study.
        svgs: The plot of each setting, by file name without suffix, in the order of the settings.
        folder: Folder of the report. Links are relative to it.
    """
    blocks = [Block('heading', 'Does classification accuracy predict detection AP?', level=1)]
    pair_sentences = findings.pair_sentences(study)
    if pair_sentences:
        blocks.append(Block('list', items=tuple(pair_sentences)))
    for part, (name, svg) in zip(study.settings, svgs.items(), strict=True):
        blocks += _setting_blocks(part, name, svg, folder)
    if study.agreements:
        sentences = tuple(map(findings.agreement_sentence, study.agreements))
        blocks += [Block('heading', 'Agreement between settings'), Block('list', items=sentences)]
    for contrast in study.contrasts:
        rows = tuple((name, f'{a:.1f}', f'{b:.1f}', f'{a - b:+.1f}') for name, a, b in contrast.nets)
        head = ('network', *(f'AP {side}' for side in findings.CONTRAST_SIDES[contrast.kind]), 'difference')
        blocks += [
            Block('heading', CONTRAST_TITLES[contrast.kind]),
            Block('text', f'{contrast.a} minus {contrast.b}'),
            Block('list', items=tuple(findings.contrast_sentences(contrast))),
            Block('table', head=head, rows=rows),
        ]
    excluded = [f'{item.what}: {item.why}.' for item in study.left_out]
    missing = (*findings.unanswered_questions(study), *excluded)
    if missing:
        blocks += [Block('heading', 'Open questions and excluded results'), Block('list', items=missing)]
    return [*blocks, Block('heading', 'Methods'), Block('list', items=METHODS)]


def _setting_blocks(part: SettingStudy, name: str, svg: bytes, folder: Path) -> list[Block]:
    cost = part.cost
    notes = dict.fromkeys(network.note for network in part.nets if network.note)
    remarks = [f'{", ".join(n.name for n in part.nets if n.note == note)}: {note}.' for note in notes]
    blocks = [
        Block('heading', part.setting.title),
        Block('list', items=tuple(findings.setting_sentences(part))),
    ]
    if len(part.nets) >= findings.MIN_REMAINING:
        blocks.append(Block('plot', f'AP against accuracy: {part.setting.title}', plot=name, svg=svg))
    blocks.append(_network_table(part, folder))
    residual = ' Residual: points of AP above (+) or below (-) the fit.' if part.line else ''
    blocks.append(Block('text', f'Cost: {part.setting.cost}.{residual}'))
    if remarks:
        blocks.append(Block('list', items=tuple(remarks)))
    if len(part.nets) >= MIN_NETWORKS:
        estimates = [('ρ of accuracy and AP', part.spearman), ('τ of accuracy and AP', part.kendall)]
        if cost:
            estimates += [
                ('ρ of accuracy and AP given multiply-adds', cost.partial),
                ('ρ of multiply-adds and AP', cost.ap),
                ('ρ of multiply-adds and accuracy', cost.accuracy),
            ]
        estimates += [(f'ρ of accuracy and AP without {w.family}', w.rho) for w in part.without]
        rows = tuple((label, format_estimate(e), str(e.n), e.note or '-') for label, e in estimates)
        blocks.append(Block('table', head=('estimate', 'value and interval', 'n', 'remark'), rows=rows))
    return blocks


def _network_table(part: SettingStudy, folder: Path) -> Block:
    """Return the table of the networks, highest AP first."""
    plane = part.cost.plane if part.cost else None
    ap = METRICS.get(part.setting.figure, part.setting.figure)
    head = ['network', 'family', 'top-1, %', f'{ap}, %', 'multiply-adds, M']
    head += ['residual given accuracy', 'residual given accuracy and cost'] if part.line else []
    rows = []
    for i, network in sorted(enumerate(part.nets), key=lambda item: (-item[1].ap, item[1].name)):
        cost = '-' if network.cost is None else f'{network.cost:,.0f}'
        row: list[Cell] = [
            network.name,
            network.family,
            f'{network.accuracy:.1f}',
            _format_ap(network),
            cost,
        ]
        row += [_format_residual(part.line, i), _format_residual(plane, i)] if part.line else []
        rows.append((*row, _source_cell(network, folder)))
    return Block('table', head=(*head, 'source'), rows=tuple(rows))


def _format_ap(network: NetworkResult) -> str:
    return f'{network.ap:.1f}' + ('' if network.spread is None else f' ± {network.spread:.1f}')


def _format_residual(fit: Fit | None, index: int) -> str:
    return '-' if fit is None else f'{round(fit.residuals[index], 1) + 0.0:+.1f}'  # no -0.0


def _source_cell(network: NetworkResult, folder: Path) -> Cell:
    """Return links to the records of own runs, or the tables of published results as text."""
    if not network.seeds:
        return ', '.join(network.sources)
    paths = (Path(os.path.relpath(source, folder)).as_posix() for source in network.sources)
    return Links(tuple((f'seed {s}', p) for s, p in zip(network.seeds, paths, strict=True)))


# Markdown


def to_markdown(blocks: Sequence[Block]) -> str:
    """Return the report in Markdown."""
    parts = []
    for block in blocks:
        if block.kind == 'heading':
            parts.append(f'{"#" * block.level} {escape_markdown(block.text)}')
        elif block.kind == 'text':
            parts.append(escape_markdown(block.text))
        elif block.kind == 'list':
            parts.append('\n'.join(f'* {escape_markdown(item)}' for item in block.items))
        elif block.kind == 'plot':
            parts.append(f'![{escape_markdown(block.text)}]({block.plot}.svg)')
        else:
            lines = [map(escape_markdown, block.head), ['---'] * len(block.head)]
            lines += [[_markdown_cell(cell) for cell in row] for row in block.rows]
            parts.append('\n'.join('| ' + ' | '.join(line) + ' |' for line in lines))
    return '\n\n'.join(parts) + '\n'


def escape_markdown(text: str) -> str:
    """Return a text on one line, with the characters of Markdown and HTML escaped."""
    return re.sub(r'([\\`*_\[\]<>|#])', r'\\\1', ' '.join(text.split()))


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escape_markdown(cell)
    return ' '.join(f'[{label}]({quote(os.fsencode(path))})' for label, path in cell.links)


# HTML

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
    """Return the report as one HTML page that loads nothing; only links lead to other files."""
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
        elif block.kind == 'plot':
            parts.append(f'<figure tabindex="0">{plots.to_inline_svg(block.svg, block.text)}</figure>')
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
    title, content = html.escape(blocks[0].text), '\n'.join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
        f'<section class="transfer">\n{content}\n</section>\n</body>\n</html>\n'
    )


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
