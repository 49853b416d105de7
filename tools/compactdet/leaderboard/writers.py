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
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from compactdet.errors import UserError
from compactdet.files import check_writable, write_whole
from compactdet.leaderboard import ranking
from compactdet.leaderboard.groups import COSTS, METRICS, Board, Group, MetricValue, Row, Run

HERE = Path(__file__).parent
SCRIPTS = ('page.js', 'page_plot.js', 'page_details.js', 'page_compare.js')  # one script, in this order
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
    groups = group_content(board, lambda run: run.path)
    whole = {'format': 1, 'rule': ranking.RULE, 'figures': METRICS, 'groups': groups}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + '\n'


def group_content(board: Board, run_content: Callable[[Run], Any]) -> list[dict[str, Any]]:
    """Return the groups as JSON values, as leaderboard.json and page.js contain them.

    Args:
        board: The leaderboard.
        run_content: Function that returns the JSON value of a run.
    """
    return [
        {
            'key': group.key,
            'kind': group.kind,
            'task': group.task,
            'dataset': group.dataset,
            'detector': group.detector,
            'title': group.title,
            'detail': group.detail,
            'control': group.control,
            'main': group.main_metric,
            'figures': group.metric_names,
            'protocol': group.protocol,
            'rows': [_row_content(row, run_content) for row in group.rows],
            'frontiers': group.frontiers,
        }
        for group in board.groups
    ]


def _row_content(row: Row, run_content: Callable[[Run], Any]) -> dict[str, Any]:
    values = {
        'figures': {name: _metric_content(value, bool(row.runs)) for name, value in row.metrics.items()},
        'class_ap': row.class_ap,
        'costs': row.costs,
        'latency_interval': row.latency_interval,
        'machine': row.machine,
        'source': row.source,
    }
    top1 = {'top1': row.top1, 'note': row.note}
    records = {'records': [run_content(run) for run in row.runs]}
    label = {'label': row.label}
    content: dict[str, Any] = {'id': row.id, 'network': row.network, 'family': row.family}
    if row.runs:
        content |= {'added': row.added, 'seeds': row.seeds, **values, 'weights': row.weights}
        return {**content, **top1, **records, **label}
    return {**content, 'model': row.model, **values, **top1, **label, **records}


def _metric_content(value: MetricValue, measured: bool) -> dict[str, Any]:
    content: dict[str, Any] = {'mean': value.mean, 'values': value.values}
    if measured and value.mean is not None:
        content |= {
            'sd': value.sd,
            'seeds_interval': value.seeds_interval,
            'images_interval': value.images_interval,
        }
    return content if value.ranks is None else {**content, 'ranks': value.ranks}


def _run_on_page(run: Run) -> dict[str, Any]:
    record = {key: value for key, value in run.record.items() if key != 'protocol'}  # the group has it once
    return {'path': run.path, 'added': run.added, 'record': record}


def page(board: Board) -> str:
    """Return the HTML page."""
    content = {
        'rule': ranking.RULE,
        't95': ranking.t_factors(30),
        'figures': METRICS,
        'costs': {name: asdict(cost) for name, cost in COSTS.items()},
        'groups': group_content(board, _run_on_page),
    }
    text = json.dumps(content, separators=(',', ':'), allow_nan=False)  # ASCII
    for character in '<>&':
        text = text.replace(character, f'\\u{ord(character):04x}')
    style = (HERE / 'page.css').read_text(encoding='utf-8')
    script = ''.join((HERE / name).read_text(encoding='utf-8') for name in SCRIPTS)
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
    meaning = [f'{cost.title}: {cost.label}, {cost.unit}' for cost in COSTS.values()]
    parts = ['# Leaderboard', ranking.RULE, f'Costs: {"; ".join(meaning)}.']
    for kind, title in (('measured', 'Measured'), ('published', 'Published by the papers, not ranked')):
        parts.append(f'## {title}')
        for group in board.groups:
            if group.kind == kind:
                parts += [f'### {_plain(group.title)}', _plain(group.detail), _markdown_table(group)]
    return '\n\n'.join(parts) + '\n'


def _markdown_table(group: Group) -> str:
    measured = group.is_measured
    ranks = ['rank'] if measured else []
    metrics = [METRICS[name] for name in group.metric_names]
    spread = ['seeds', '95 % over seeds', '95 % over images'] if measured else []
    shown = [name for name in COSTS if any(row.costs[name] is not None for row in group.rows)]
    costs = [f'{COSTS[name].title}, {COSTS[name].unit}' for name in shown]
    lines = [[*ranks, 'network', *metrics, *spread, *costs, 'records' if measured else 'source']]
    lines.append(['---'] * len(lines[0]))
    for row in group.rows:
        main = row.metric(group.main_metric)
        cells = [_ranks(main.ranks or [])] if measured else []
        cells.append(_plain(row.label) + (' (added)' if row.added else ''))
        cells += [_percent(row.metric(name)) for name in group.metric_names]
        if measured:
            cells += [str(len(row.seeds)), _span(main.seeds_interval), _span(main.images_interval)]
        intervals = {'latency_ms': row.latency_interval}
        cells += [_cost(name, row.costs[name], intervals.get(name)) for name in shown]
        source = ' '.join(f'[{run.record["seed"]}]({quote(os.fsencode(run.path))})' for run in row.runs)
        lines.append([*cells, source or _plain(row.source)])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _percent(value: MetricValue) -> str:
    if value.mean is None:
        return '-'
    return f'{100 * value.mean:.1f}' + ('' if value.sd is None else f' ± {100 * value.sd:.1f}')


def _ranks(ranks: Sequence[int]) -> str:
    """Return ``1``, ``1-3``, or ``-`` for none."""
    return '-'.join(map(str, dict.fromkeys(ranks))) or '-'


def _span(interval: Sequence[float] | None) -> str:
    return '-' if interval is None else f'{100 * interval[0]:.1f} to {100 * interval[1]:.1f}'


def _cost(name: str, value: float | None, interval: tuple[float, float] | None = None) -> str:
    """Return a cost in the unit of ``COSTS[name]``, with its interval if it has one."""
    if value is None:
        return '-'
    scaled = value / COSTS[name].size
    if interval is not None:
        low, high = (end / COSTS[name].size for end in interval)
        return f'{scaled:.3g} ({low:.3g} to {high:.3g})'
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
        for row in group.rows:
            for name in group.metric_names:
                value = row.metric(name)
                cells: list[Any] = [group.kind, group.task, group.key, group.dataset, group.detector]
                cells += [row.network, row.model, name, value.mean, value.sd]
                cells += [' '.join(map(str, row.seeds))]
                cells += [*(value.seeds_interval or (None,) * 2)]
                cells += [*(value.images_interval or (None,) * 2)]
                cells += [*(value.ranks or (None,) * 2)]
                cells += [*row.costs.values(), row.machine, row.top1, row.source, row.note]
                cells.append(' '.join(run.path for run in row.runs))
                writer.writerow(map(_cell, cells))
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Return a text with an apostrophe before it if a spreadsheet would take it for a formula."""
    return (
        f"'{value}" if isinstance(value, str) and value[:1] in ('=', '+', '-', '@', '\t', '\r') else value
    )
