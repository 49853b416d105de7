"""The files of the leaderboard: hostile text stays text in all of them, another page is not overwritten."""

import base64
import csv
import hashlib
import html.parser
import io
import json
import os
import re

import pytest

from compactdet.errors import UserError
from compactdet.leaderboard import writers

from leaderboard_runs import HOSTILE, MAIN, TEMPLATE, board, measured, run, seeds


class Page(html.parser.HTMLParser):
    """The texts of scripts and styles, and every attribute that could ask for something outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inside: list[list[str]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.policy = ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ('src', 'href', 'action', 'style')]
        self.links += [name for name, _ in attrs if name.startswith('on')]
        self.policy += dict(attrs).get('content', '') if tag == 'meta' else ''
        if tag in ('script', 'style'):
            self.inside.append([tag if len(attrs) == 0 else 'data', ''])

    def handle_data(self, data):
        if self.tags and self.tags[-1] in ('script', 'style') and self.inside:
            self.inside[-1][1] += data

    def handle_endtag(self, tag):
        self.tags.append('/' + tag)


def test_the_page_is_whole_and_holds_hostile_text_as_text(tmp_path):
    seeds(tmp_path, HOSTILE, 0.8, 0.9)
    made = board(tmp_path)
    text = writers.page(made)
    page = Page(text)
    assert page.links == ['data:,']  # its empty icon; nothing else is asked for
    assert [kind for kind, _ in page.inside] == ['style', 'data', 'script']
    assert page.tags.count('/script') == page.tags.count('script') == 2
    held = json.loads(page.inside[1][1])
    (group,) = [g for g in held['groups'] if g['kind'] == 'measured']
    assert group['rows'][0]['network'] == HOSTILE
    for kind, content in (page.inside[0], page.inside[2]):
        sha256 = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{sha256}'" in page.policy
    assert "default-src 'none'" in page.policy
    assert not re.search(
        r'innerHTML|insertAdjacent|document\.write|eval\(|https?://(?!www\.w3\.org)', page.inside[2][1]
    )


def test_half_a_character_is_no_end_of_it(tmp_path):
    path = run(tmp_path / 'runs', 'net', 0, 0.5)
    record = json.loads(path.read_text())
    record['detector'] = 'a \ud800 b'
    path.write_text(json.dumps(record))  # as an escape, which JSON allows
    files = writers.write(board(tmp_path / 'runs'), tmp_path / 'out')
    assert 'a ? b' in files[2].read_text(encoding='utf-8')


def test_a_folder_whose_name_is_no_text(tmp_path, run_tool):
    name = os.fsdecode(b'a\xff b')
    try:
        path = run(tmp_path / name, 'a', 0, 0.5)
    except OSError:
        pytest.skip('the file system takes no such name')
    run(tmp_path / name, 'b', 0, 0.6)
    for tool, file in (('leaderboard', 'leaderboard.md'), ('transfer', 'report.md')):
        status, _, err = run_tool(
            tool, path.parents[1], path, '--out', tmp_path / tool
        )  # one of them twice
        assert (status, err) == (0, '')
        assert '(../a%FF%20b/0/record.json)' in (tmp_path / tool / file).read_text()


def test_markdown_and_csv_are_safe_and_whole(tmp_path):
    seeds(tmp_path, HOSTILE, 0.8, 0.9)
    seeds(tmp_path, '=cmd()', 0.5, 0.6)
    made = board(tmp_path)
    text = writers.markdown(made)
    assert '<' not in text
    (line,) = [line for line in text.splitlines() if 'pwned' in line]
    assert line.count('|') - 1 == len(measured(made)[0].metric_names) + 10
    assert ' 85.0 ± 7.1 ' in line
    rows = list(csv.DictReader(io.StringIO(writers.table(made))))
    found = [row for row in rows if row['kind'] == 'measured' and row['figure'] == MAIN]
    assert [row['network'] for row in found] == [HOSTILE, "'=cmd()"]
    assert float(found[0]['value']) == pytest.approx(0.85)
    assert (found[0]['seeds'], found[0]['rank_best'], found[0]['rank_worst']) == ('0 1', '1', '2')
    assert {row['kind'] for row in rows} == {'measured', 'published'}


def test_ranks_and_costs_as_text():
    assert [writers._ranks(r) for r in ([], [2, 2], [1, 3])] == ['-', '2', '1-3']
    costs = (15.47e9, 138.4e6, 40.55e6, 5e4, None)
    assert [writers._cost('network_macs', macs) for macs in costs] == ['15470', '138', '40.5', '0.05', '-']


def test_the_json_keeps_its_keys(tmp_path):
    seeds(tmp_path, 'a', 0.8, 0.9)
    whole = json.loads(writers.data(board(tmp_path)))
    assert list(whole) == ['format', 'rule', 'figures', 'groups']
    keys = ['key', 'kind', 'task', 'dataset', 'detector', 'title', 'detail', 'control']
    keys += ['main', 'figures', 'protocol']
    assert all(list(group) == [*keys, 'rows', 'frontiers'] for group in whole['groups'])
    first, last = whole['groups'][0]['rows'][0], whole['groups'][-1]['rows'][0]
    shared = ['figures', 'class_ap', 'costs', 'latency_interval', 'machine', 'source']
    end = ['weights', 'top1', 'note', 'records', 'label']
    assert list(first) == ['id', 'network', 'family', 'added', 'seeds', *shared, *end]
    assert list(last) == ['id', 'network', 'family', 'model', *shared, 'top1', 'note', 'label', 'records']
    assert list(first['costs']) == [
        'network_macs', 'detector_macs', 'network_params', 'detector_params', 'latency_ms',
    ]  # fmt: skip
    spread = ['sd', 'seeds_interval', 'images_interval', 'ranks']
    assert list(first['figures'][MAIN]) == ['mean', 'values', *spread]
    assert first['figures']['voc/ap50_area'] == {'mean': None, 'values': [None, None]}
    assert all(list(value) == ['mean', 'values'] for value in last['figures'].values())


def test_same_records_give_the_same_bytes(tmp_path, run_tool):
    paths = [run(tmp_path / 'runs', arch, seed, 0.5 + seed / 10) for arch in 'ab' for seed in (0, 1)]
    paths.append(run(tmp_path / 'runs', 'a', 0, 0.9, created_utc='2030-01-01T00:00:00Z'))  # a repetition
    paths.append(run(tmp_path / 'runs', 'b', 2, 0.9))
    paths.append(run(tmp_path / 'runs', 'b', 2, 0.8))  # another at the same time
    for name, order in (('x', paths), ('y', paths[::-1])):
        status, out, err = run_tool('leaderboard', *order, '--out', tmp_path / name)
        assert (status, err) == (0, '')
        assert len(out.splitlines()) == 5
    for name in writers.NAMES:
        assert (tmp_path / 'x' / name).read_bytes() == (tmp_path / 'y' / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / 'x').iterdir()) == sorted(writers.NAMES)
    whole = json.loads((tmp_path / 'x' / 'leaderboard.json').read_text())
    rows = {row['network']: row for row in whole['groups'][0]['rows']}
    assert rows['a']['records'] == ['../runs/0/record.json', '../runs/1/record.json']


def test_a_list_is_no_record(tmp_path):
    path = tmp_path / 'record.json'
    path.write_text('[]')
    with pytest.raises(UserError, match='object'):
        board(path)


def test_what_cannot_be_written_whole_is_not_begun(tmp_path, run_tool):
    for tool, last in (('leaderboard', 'leaderboard.json'), ('transfer', 'scatter_1.svg')):
        (tmp_path / tool / last).mkdir(parents=True)
        (tmp_path / tool / 'index.html').write_text('mine')
        runs = [TEMPLATE / 'cifar10_transfer']
        status, _, err = run_tool(tool, *runs, '--out', tmp_path / tool)
        assert (status, err.count('\n')) == (1, 1)
        assert f'{last} cannot be written (is a folder)' in err
        assert {path.name for path in (tmp_path / tool).iterdir()} == {last, 'index.html'}
        assert (tmp_path / tool / 'index.html').read_text() == 'mine'


def test_another_page_of_the_name_is_kept_and_our_own_is_replaced(tmp_path):
    made = board(TEMPLATE / 'shapes_seed0')
    page = tmp_path / 'index.html'
    page.write_text('mine')
    with pytest.raises(UserError, match=r'index\.html is not a leaderboard and would be lost; name'):
        writers.write(made, tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ['mine']
    page.unlink()
    (first, *_) = writers.write(made, tmp_path)
    first.write_bytes(first.read_bytes() + b'<!-- old -->')
    writers.write(made, tmp_path)
    assert b'<!-- old -->' not in page.read_bytes()
