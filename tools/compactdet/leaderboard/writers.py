"""Write a leaderboard: index.html, one page without external resources, and Markdown, CSV and JSON.

The same board gives the same bytes. Records may come from untrusted sources. The page contains their text
as JSON that cannot end its element, shows it as text nodes, and its content security policy allows no other
script; Markdown and CSV escape it.
"""

import base64
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from compactdet.errors import UserError
from compactdet.files import check_writable, write_whole
from compactdet.leaderboard import ranking
from compactdet.leaderboard.board import COSTS, FIGURES, Board, Group, Row

HERE = Path(__file__).parent
NAMES = ('index.html', 'leaderboard.md', 'leaderboard.csv', 'leaderboard.json')
TITLE = b'<title>Leaderboard: compact networks in detection</title>'


def write(board: Board, out: Path) -> list[Path]:
    """Write the four files into a folder, which is created if necessary.

    All texts are created and all paths tried before the first file is written.

    Raises:
        UserError: A file cannot be written, or index.html in the folder is not a leaderboard.
    """
    texts = (page(board), markdown(board), table(board), data(board))
    for name in NAMES:
        check_writable(out / name)
    _check_replaceable(out / 'index.html')
    for name, text in zip(NAMES, texts, strict=True):
        write_whole(out / name, text.encode(errors='replace'))  # a lone surrogate cannot be encoded
    return [out / name for name in NAMES]


def _check_replaceable(page: Path) -> None:
    """Raise UserError if an existing index.html is not a leaderboard."""
    try:
        if page.exists() and TITLE not in page.read_bytes():
            raise UserError(f'{page} is not a leaderboard and would be lost; name another --out')
    except OSError as error:
        raise UserError(f'cannot read {page}, which would be replaced: {error.strerror}') from error


def data(board: Board) -> str:
    """Return the board as JSON, with the paths of the records instead of the records."""
    groups = [{**group, 'rows': [_without_records(row) for row in group['rows']]} for group in board.groups]
    whole = {'format': 1, 'rule': ranking.RULE, 'figures': FIGURES, 'groups': groups}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + '\n'


def _without_records(row: Row) -> Row:
    return {**row, 'records': [run['path'] for run in row.get('records', [])]}


def page(board: Board) -> str:
    """Return the HTML page."""
    groups = []
    for group in board.groups:
        rows = [dict(row) for row in group['rows']]
        for row in rows:  # the group has the protocol once
            row['records'] = [
                {**run, 'record': {k: v for k, v in run['record'].items() if k != 'protocol'}}
                for run in row.get('records', [])
            ]
        groups.append({**group, 'rows': rows})
    costs = {
        name: {'title': title, 'label': label, 'unit': unit, 'size': size}
        for name, (title, label, unit, size) in COSTS.items()
    }
    content = {'rule': ranking.RULE, 'figures': FIGURES, 'costs': costs, 'groups': groups}
    text = json.dumps(content, separators=(',', ':'), allow_nan=False)  # ASCII
    for character in '<>&':
        text = text.replace(character, f'\\u{ord(character):04x}')
    style = (HERE / 'page.css').read_text(encoding='utf-8')
    script = (HERE / 'page.js').read_text(encoding='utf-8')
    parts = (HERE / 'page.html').read_text(encoding='utf-8')
    for name, part in {
        'style_hash': _hash(style),
        'script_hash': _hash(script),
        'style': style,
        'script': script,
        'data': text,  # last, since its content is not searched
    }.items():
        parts = parts.replace('{{' + name + '}}', part, 1)
    return parts


def _hash(text: str) -> str:
    return 'sha256-' + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def markdown(board: Board) -> str:
    """Return one Markdown table per group, in percent."""
    meaning = [f'{title}: {label}, {unit}' for title, label, unit, _ in COSTS.values()]
    parts = ['# Leaderboard', ranking.RULE, f'Costs: {"; ".join(meaning)}.']
    for kind, title in (('measured', 'Measured'), ('published', 'Published by the papers, not ranked')):
        parts.append(f'## {title}')
        for group in board.groups:
            if group['kind'] == kind:
                parts += [f'### {_plain(group["title"])}', _plain(group['detail']), _markdown_table(group)]
    return '\n\n'.join(parts) + '\n'


def _markdown_table(group: Group) -> str:
    measured = group['kind'] == 'measured'
    figures = [FIGURES[figure] for figure in group['figures']]
    ranks = ['rank'] if measured else []
    spread = ['seeds', '95 % over seeds', '95 % over images'] if measured else []
    shown = [name for name in COSTS if any(row['costs'][name] is not None for row in group['rows'])]
    costs = [f'{COSTS[name][0]}, {COSTS[name][2]}' for name in shown]
    lines = [[*ranks, 'network', *figures, *spread, *costs, 'records' if measured else 'source']]
    lines.append(['---'] * len(lines[0]))
    for row in group['rows']:
        main = row['figures'].get(group['main'], {})
        cells = []
        if measured:
            cells.append(_ranks(main.get('ranks', [])))
        cells.append(f'{_plain(row["label"])}' + (' (added)' if row.get('added') else ''))
        cells += [_percent(row['figures'].get(figure, {})) for figure in group['figures']]
        if measured:
            cells += [
                str(len(row['seeds'])),
                _span(main.get('seeds_interval')),
                _span(main.get('images_interval')),
            ]
        cells += [_cost(row, name) for name in shown]
        source = ' '.join(
            f'[{run["record"]["seed"]}]({quote(os.fsencode(run["path"]))})'
            for run in row.get('records', [])
        )
        lines.append([*cells, source or _plain(row['source'])])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _percent(figure: Mapping[str, Any]) -> str:
    if figure.get('mean') is None:
        return '-'
    sd = figure.get('sd')
    return f'{100 * figure["mean"]:.1f}' + ('' if sd is None else f' ± {100 * sd:.1f}')


def _ranks(ranks: Sequence[int]) -> str:
    """Return ``1``, ``1-3``, or ``-`` for none."""
    return '-'.join(map(str, dict.fromkeys(ranks))) or '-'


def _span(interval: Sequence[float] | None) -> str:
    return '-' if interval is None else f'{100 * interval[0]:.1f} to {100 * interval[1]:.1f}'


def _cost(row: Row, name: str) -> str:
    value = row['costs'][name]
    if value is None:
        return '-'
    scaled = value / COSTS[name][3]
    return f'{scaled:.0f}' if scaled >= 100 else f'{scaled:.3g}'


def _plain(text: str) -> str:
    """Return the text on one line with Markdown and HTML escaped."""
    text = ' '.join(text.split())
    text = ''.join(f'&#{ord(c)};' if c in '\\`*[]<>|&~' else c for c in text)
    return re.sub(r'(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])', '&#95;', text)  # plain inside a word


def table(board: Board) -> str:
    """Return CSV: one line per network and metric; shares from 0 to 1, costs in single operations."""
    text = io.StringIO()
    head = ['kind', 'task', 'group', 'dataset', 'detector', 'network', 'model', 'figure', 'value', 'sd']
    head += ['seeds', 'seeds_low', 'seeds_high', 'images_low', 'images_high', 'rank_best', 'rank_worst']
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([*head, *COSTS, 'machine', 'top1', 'source', 'note', 'records'])
    for group in board.groups:
        for row in group['rows']:
            for figure in group['figures']:
                found = row['figures'].get(figure, {})
                who = [group[key] for key in ('kind', 'task', 'key', 'dataset', 'detector')]
                cells = [*who, row['network'], row.get('model'), figure, found.get('mean'), found.get('sd')]
                cells += [' '.join(map(str, row.get('seeds', [])))]
                cells += [*(found.get('seeds_interval') or (None,) * 2)]
                cells += [*(found.get('images_interval') or (None,) * 2)]
                cells += [*(found.get('ranks') or (None,) * 2)]
                cells += [*row['costs'].values(), row['machine'], row['top1'], row['source'], row['note']]
                cells.append(' '.join(run['path'] for run in row.get('records', [])))
                writer.writerow(map(_cell, cells))
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Return a text with an apostrophe before it if a spreadsheet would take it for a formula."""
    return (
        f"'{value}" if isinstance(value, str) and value[:1] in ('=', '+', '-', '@', '\t', '\r') else value
    )
