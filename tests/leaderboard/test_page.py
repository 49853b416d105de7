"""The leaderboard's page in a real browser: sorting, filtering, points, both widths, light and dark."""

from pathlib import Path

import pytest

from compactdet.leaderboard import board as leaderboard
from compactdet.leaderboard import writers

from browser import Browser
from leaderboard_runs import HOSTILE, example_record, seeds

SIZES = [(1280, 900), (768, 1024), (390, 844)]
STICKY = """(() => { const head = document.getElementById('table').tHead; scrollTo(0, 1e6);
    scrollBy(0, -innerHeight); const row = head.querySelector('th').getBoundingClientRect(); scrollTo(0, 0);
    return row.top >= 0 && row.bottom < innerHeight / 3; })()"""


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp('profile'))
    yield made
    made.close()


@pytest.fixture(scope='module')
def page(tmp_path_factory) -> Path:
    runs, out = tmp_path_factory.mktemp('runs'), tmp_path_factory.mktemp('out')
    seeds(runs, 'cheap', 0.60, 0.61, 0.62, macs=1_000_000_000)
    seeds(runs, 'middling', 0.55, 0.56, macs=2_000_000_000)
    seeds(runs, 'dear', 0.80, 0.81, 0.82, macs=4_000_000_000)
    seeds(runs, HOSTILE, 0.70, macs=3_000_000_000)
    board = leaderboard.make([str(runs)], [], out)
    return writers.write(board, out)[0]


def names(browser: Browser) -> list[str]:
    """Networks of the measured group, in the order of the table."""
    return browser.run("[...document.querySelectorAll('tbody.measured .open')].map(e => e.textContent)")


CONTRASTS = r"""(() => {
  const parse = color => color.match(/[\d.]+/g).map(Number);
  const linear = v => v / 255 <= .04045 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = color => parse(color).slice(0, 3).map(linear)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((parse(color)[3] ?? 1) > 0) return color;
    }
  };
  const chosen = 'h1, h2, p, label, td, th button, th b, .detail, .badge, .open, output, svg text';
  const seen = [...document.querySelectorAll(chosen)].filter(e => e.getClientRects().length);
  return Math.min(...seen.map(e => {
    const style = getComputedStyle(e);
    const pair = [light(e.tagName === 'text' ? style.fill : style.color), light(ground(e))];
    return (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
  }));
})()"""
SMALLEST = """Math.min(...[...document.querySelectorAll('td, p, label, svg text')]
    .map(e => parseFloat(getComputedStyle(e).fontSize)))"""


@pytest.mark.parametrize(('width', 'height'), SIZES)
@pytest.mark.parametrize('dark', [False, True])
def test_opens_without_a_complaint_and_fits(browser, page, width, height, dark):
    browser.problems.clear()
    browser.open(page, width, height, dark)
    assert browser.problems == []  # no error, no request
    assert browser.run('document.documentElement.scrollWidth') <= width
    right = "[...document.querySelectorAll('#table td')].map(e => e.getBoundingClientRect().right)"
    assert max(browser.run(right)) <= width
    assert browser.run(STICKY)
    assert browser.run(CONTRASTS) >= 4.5  # WCAG's figure for text
    assert browser.run(SMALLEST) >= 12
    assert len(browser.run("[...document.querySelectorAll('.point')].map(e => e.ariaLabel)")) == 4
    background = browser.run('getComputedStyle(document.documentElement).backgroundColor')
    assert (background == 'rgb(255, 255, 255)') != dark


@pytest.mark.parametrize(('width', 'height'), SIZES)
def test_sorting_by_mouse_and_keyboard(browser, page, width, height):
    browser.open(page, width, height)
    assert names(browser) == ['dear', HOSTILE, 'cheap', 'middling']  # by result
    ranks = "[...document.querySelectorAll('tbody.measured td:first-child')].map(e => e.textContent)"
    assert browser.run(ranks) == ['1', '–', '2', '3']
    browser.run("document.querySelector('[data-sort=result]').focus()")
    sorted_by = "document.querySelector('[data-sort=result]').closest('th').ariaSort"
    assert browser.run(sorted_by) == 'descending'
    browser.press('Enter')  # the header keeps the focus
    assert (names(browser), browser.run(sorted_by)) == (['middling', 'cheap', HOSTILE, 'dear'], 'ascending')
    browser.click('[data-sort=detector_macs]')
    assert names(browser) == ['cheap', 'middling', HOSTILE, 'dear']
    browser.click('[data-sort=rank]')
    assert names(browser) == ['dear', 'cheap', 'middling', HOSTILE]
    browser.press('Enter')
    assert names(browser) == ['middling', 'cheap', 'dear', HOSTILE]  # what has no rank stays last


def choose(browser: Browser, id: str, value: str) -> None:
    browser.run(f"(() => {{ const e = document.getElementById('{id}'); e.value = '{value}';"
                "e.dispatchEvent(new Event('change')); })()")  # fmt: skip


def test_the_largest_measured_group_that_is_no_control_is_drawn_first(browser, tmp_path):
    for arch in ('x', 'y'):
        seeds(tmp_path / 'runs', arch, 0.9, dataset={**example_record()['dataset'], 'name': 'A'})
    random = {**example_record()['init'], 'class': 'none'}
    for arch in ('a', 'b', 'c', 'd'):
        seeds(tmp_path / 'runs', arch, 0.5, init=dict(random), protocol={'init': 'none'})
    for arch in ('a', 'b', 'c'):
        seeds(tmp_path / 'runs', arch, 0.5, dataset={**example_record()['dataset'], 'name': 'B'},
              protocol={'init': 'ImageNet', 'of': 'B'})  # fmt: skip
    board = leaderboard.make([str(tmp_path / 'runs')], [], tmp_path)
    browser.open(writers.write(board, tmp_path / 'out')[0])
    assert browser.run("document.querySelectorAll('.point').length") == 3
    # a, b and c are measured twice; the networks are counted, not the rows
    assert '6 networks measured under 3 protocols' in browser.run('document.body.textContent')


def test_filtering(browser, page):
    browser.open(page)
    kinds = "[...new Set([...document.querySelectorAll('tbody')].map(e => e.className))].sort()"
    assert browser.run(kinds) == ['measured', 'published']
    browser.click('#search')
    browser.type('cheap')
    assert names(browser) == ['cheap']
    assert browser.run("document.getElementById('count').textContent") == 'Rows: 1, groups: 1'
    assert browser.run("document.querySelectorAll('.point.faded').length") == 3
    browser.run("document.getElementById('search').value = ''")
    choose(browser, 'kind', 'published')
    assert browser.run(kinds) == ['published']
    assert 'menet_456_24x1_g3' in browser.run("document.getElementById('table').textContent")
    assert browser.run("document.querySelectorAll('.point.published').length") > 2
    choose(browser, 'dataset', 'MNIST')  # which no detector was published on
    assert browser.run("!document.getElementById('nothing').hidden")
    choose(browser, 'task', 'classification')
    assert '99.8' in browser.run("document.getElementById('table').textContent")  # GM-Net: error 0.21


def test_a_point_opens_the_record(browser, page):
    browser.problems.clear()
    browser.open(page)
    choose(browser, 'cost', 'detector_macs')
    assert browser.run("document.querySelector('.front').getAttribute('d').split('V').length") == 3
    points = "[...document.querySelectorAll('.point')].map(e => e.ariaLabel.split(':')[0])"
    assert browser.run(points)[0] == 'dear'
    browser.click('.point')
    assert browser.run("document.getElementById('details').open")
    text = browser.run("document.getElementById('details').textContent")
    for part in (
        'dear',
        'AP by class',
        'WBC',
        '81.0 ± 1.0',
        '"lr": 0.02',
        '"seed": 2',
        'python tools/train.py',
    ):
        assert part in text
    address = browser.run('location.hash')
    browser.press('Escape')
    browser.wait("!document.getElementById('details').open && location.hash === '#cost=detector_macs'")
    browser.run("document.querySelector('.point').focus()")
    assert browser.run("document.getElementById('tip').textContent").startswith(
        'dear81.0 ± 1.0 % at 4.00 G'
    )
    browser.run("document.querySelector('.point').blur()")
    assert browser.run("document.getElementById('tip').hidden")
    browser.run("document.querySelector('.point').focus()")
    browser.press('Enter')
    browser.run('new Promise(done => setTimeout(done, 50))')
    assert (browser.run("document.getElementById('details').open"), browser.run('location.hash')) == (
        True,
        address,
    )
    assert browser.problems == []


def test_the_figure_and_cost_can_be_chosen(browser, page):
    browser.open(page)
    choose(browser, 'figure', 'coco/ap')
    cell = "document.querySelector('tbody.measured tr.row td:nth-child(3)').textContent"
    assert browser.run(cell) == '40.5 ± 0.5'
    choose(browser, 'cost', 'detector_params')
    label = "document.querySelector('#plot svg').getAttribute('aria-label')"
    assert browser.run(label).startswith('COCO AP against parameters of the whole detector')


def test_hostile_text_is_only_text(browser, page):
    browser.problems.clear()
    browser.open(page)
    browser.click('tbody.measured tr:nth-child(3) .open')  # after the title and the best
    assert browser.run("document.getElementById('details-title').textContent") == HOSTILE
    assert browser.run('typeof window.pwned') == 'undefined'
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.problems == []


def test_filters_by_family_detector_and_cost(browser, page):
    browser.open(page)
    browser.run("document.getElementById('most').value = '2'")
    choose(browser, 'cost', 'detector_macs')
    assert names(browser) == ['cheap', 'middling']  # at most 2 G; published rows state none
    assert browser.run("document.querySelectorAll('tbody').length") == 1
    assert browser.run("document.querySelectorAll('.point').length") == 2
    browser.click('#reset')
    assert len(names(browser)) == 4
    choose(browser, 'family', 'CondenseNetV2')
    choose(browser, 'detector', 'retinanet_fpn')
    shown = browser.run("[...document.querySelectorAll('td.network .open')].map(e => e.textContent)")
    assert shown
    assert all(name.startswith('condensenetv2_') for name in shown)


def test_hits_are_labelled_and_missing_values_named(browser, page):
    browser.open(page)
    browser.click('#search')
    browser.type('middling')
    labels = "[...document.querySelectorAll('svg .name')].map(e => e.textContent)"
    assert browser.run(labels) == ['middling']
    caption = "document.getElementById('caption').textContent"
    assert 'Not drawn' not in browser.run(caption)
    choose(browser, 'cost', 'latency_ms')
    assert 'since their latency is not known: dear' in browser.run(caption)


def compare(browser: Browser, network: str) -> None:
    box = f"[...document.querySelectorAll('.choose')].find(e => e.ariaLabel === 'compare {network}')"
    browser.run(f'{box}.click()')


def test_the_address_holds_the_view(browser, page):
    browser.open(page)
    choose(browser, 'cost', 'detector_macs')
    choose(browser, 'kind', 'measured')
    browser.click('[data-sort=network]')
    for network in ('dear', 'middling'):
        compare(browser, network)
    browser.click('#search')
    browser.type('dear')
    view = (names(browser), browser.run("document.getElementById('pairs').textContent"))
    address = browser.run('location.hash')
    browser.open(page)
    browser.run(
        f"new Promise(done => {{ addEventListener('hashchange', done); location.hash = '{address}'; }})"
    )
    assert (names(browser), browser.run("document.getElementById('pairs').textContent")) == view
    assert view[0] == ['dear']
    assert 'dear − middling' in view[1]
    assert browser.run("document.getElementById('cost').value") == 'detector_macs'


def test_the_difference_of_two_networks_is_paired_by_seed(browser, page):
    browser.open(page)
    for network in ('dear', 'middling', 'cheap'):
        compare(browser, network)
    cells = """[...document.querySelectorAll('#pairs tbody tr')]
        .map(r => [...r.cells].slice(0, 4).map(c => c.textContent))"""
    lines = {line[0].split(':')[0]: line[1:] for line in browser.run(cells)}
    # 80 - 60, 81 - 61 and 82 - 62; 80 - 55 and 81 - 56
    assert lines['dear − cheap'] == ['+20.0', '+20.0 to +20.0', '0, 1, 2']
    assert lines['dear − middling'] == ['+25.0', '+25.0 to +25.0', '0, 1']
    # 55 and 56 against 60 and 63: -5 and -7, t of one degree of freedom is 12.706
    assert browser.run("""(() => {
        const row = values => ({ seeds: [0, 1], figures: { x: { values } } });
        const pair = pairOf(row([.55, .56]), row([.60, .63]), 'x');
        return [pair.mean, pair.half].map(v => v.toFixed(5)); })()""") == ['-0.06000', '0.12706']


def test_the_shown_rows_can_be_downloaded(browser, page):
    browser.open(page)
    browser.click('#search')
    browser.type('cheap')
    head, line, *rest = browser.run('csv()').splitlines()
    values = dict(zip(head.split(','), line.split(','), strict=True))
    assert rest == []
    assert (values['network'], values['seeds'], values['detector_macs']) == ('cheap', '0 1 2', '1000000000')
    assert float(values['value']) == pytest.approx(0.61)
