"""The leaderboard's page in a real browser: sorting, filtering, points, both widths, light and dark."""

from pathlib import Path

import pytest

from compactdet.leaderboard import board as leaderboard
from compactdet.leaderboard import writers

from browser import Browser
from leaderboard_runs import HOSTILE, example_record, seeds

SIZES = [(1280, 900), (390, 844)]


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
    assert browser.run(CONTRASTS) >= 4.5  # WCAG's figure for text
    assert browser.run(SMALLEST) >= 12
    assert len(browser.run("[...document.querySelectorAll('.point')].map(e => e.ariaLabel)")) == 4
    background = browser.run('getComputedStyle(document.documentElement).backgroundColor')
    assert (background == 'rgb(255, 255, 255)') != dark


@pytest.mark.parametrize(('width', 'height'), SIZES)
def test_sorting_by_mouse_and_keyboard(browser, page, width, height):
    browser.open(page, width, height)
    assert names(browser) == ['dear', 'cheap', 'middling', HOSTILE]  # by rank; without one last
    ranks = "[...document.querySelectorAll('tbody.measured td:first-child')].map(e => e.textContent)"
    assert browser.run(ranks) == ['1', '2', '3', '–']
    browser.click('[data-sort=result]')
    assert names(browser) == ['dear', HOSTILE, 'cheap', 'middling']
    sorted_by = "document.querySelector('[data-sort=result]').closest('th').ariaSort"
    assert browser.run(sorted_by) == 'descending'
    browser.press('Enter')  # the header keeps the focus
    assert (names(browser), browser.run(sorted_by)) == (['middling', 'cheap', HOSTILE, 'dear'], 'ascending')
    browser.click('[data-sort=detector_macs]')
    assert names(browser) == ['cheap', 'middling', HOSTILE, 'dear']
    browser.click('[data-sort=rank]')
    browser.press('Enter')
    assert names(browser) == ['middling', 'cheap', 'dear', HOSTILE]  # what has no rank stays last


def choose(browser: Browser, id: str, value: str) -> None:
    browser.run(f"(() => {{ const e = document.getElementById('{id}'); e.value = '{value}';"
                "e.dispatchEvent(new Event('change')); })()")  # fmt: skip


def test_the_largest_measured_group_is_drawn_first(browser, tmp_path):
    for arch in ('x', 'y'):
        seeds(tmp_path / 'runs', arch, 0.9, dataset={**example_record()['dataset'], 'name': 'A'})
    for arch in ('a', 'b', 'c'):
        seeds(tmp_path / 'runs', arch, 0.5, dataset={**example_record()['dataset'], 'name': 'B'},
              protocol={'init': 'ImageNet', 'of': 'B'})  # fmt: skip
    board = leaderboard.make([str(tmp_path / 'runs')], [], tmp_path)
    browser.open(writers.write(board, tmp_path / 'out')[0])
    assert browser.run("document.querySelectorAll('.point').length") == 3
    assert '5 networks measured under 2 protocols' in browser.run('document.body.textContent')


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
    browser.wait("!document.getElementById('details').open && location.hash === ''")
    browser.run("document.querySelector('.point').focus()")
    assert 'dear: 81.0 ± 1.0 % at 4.00 G' in browser.run("document.getElementById('caption').textContent")
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
    choose(browser, 'cost', 'params')
    label = "document.querySelector('#plot svg').getAttribute('aria-label')"
    assert browser.run(label).startswith('COCO AP against parameters, whole detector')


def test_hostile_text_is_only_text(browser, page):
    browser.problems.clear()
    browser.open(page)
    browser.click('tbody.measured tr:last-child .open')
    assert browser.run("document.getElementById('details-title').textContent") == HOSTILE
    assert browser.run('typeof window.pwned') == 'undefined'
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.problems == []
