"""The Markdown pages: what they list exists, and their results, commands and outputs are the real ones."""

import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, documented_commands, run

from compactdet.records import results_table
from compactdet.records.record_file import read_pretraining
from compactdet.transfer import correlation, report, sources, study

TEXTS = {page: (ROOT / page).read_text(encoding='utf-8') for page in PAGES}
README, TOOLS = TEXTS['README.md'], TEXTS['tools/README.md']
STUDY = ROOT / 'work_dirs_template/cifar10_transfer'


def section(text: str, title: str) -> str:
    return text.split(f'\n## {title}\n')[1].split('\n## ')[0]


def between(text: str, marker: str) -> str:
    return re.search(rf'<!-- {marker} -->\n(.*)<!-- /{marker} -->', text, re.DOTALL)[1]


def anchor(heading: str) -> str:
    """Return the anchor that a Markdown renderer gives a heading."""
    return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_the_project_structure_is_complete():
    text = section(README, 'Project structure')
    for folder in ('backbones', 'tools/compactdet'):
        for path in (ROOT / folder).iterdir():
            if path.is_dir() and (path / '__init__.py').exists():
                assert f'{path.name}/' in text, f'{path.name} is missing from the project structure'
            elif folder == 'tools/compactdet' and path.suffix == '.py' and path.stem != '__init__':
                assert path.name in text, f'{path.name} is missing from the project structure'
    for name in re.findall(r'(\w+/)', text):
        assert [*ROOT.rglob(name)], f'{name} does not exist'


def test_every_command_has_a_section():
    for path in (ROOT / 'tools').glob('*.py'):
        assert f'[{path.name}](#{anchor(path.name)})' in TOOLS
        assert f'\n## {path.name}\n' in TOOLS


@pytest.mark.parametrize('page', PAGES)
def test_links_exist(page):
    text = TEXTS[page]
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if '://' in link:
            continue
        target, _, heading = link.partition('#')
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), link
        if heading:
            headings = re.findall(r'^#+ (.*)$', path.read_text(encoding='utf-8'), re.MULTILINE)
            assert heading in map(anchor, headings), link


def result_rows():
    folders = [str(path) for name in ('bccd_*', 'shapes_*') for path in STUDY.parent.glob(name)]
    return results_table.rows(results_table.find_records(folders))


def test_results_are_those_of_the_records():
    page = (STUDY.parent / 'results.md').read_text(encoding='utf-8')
    assert between(page, 'results') == results_table.markdown(result_rows(), STUDY.parent)


def test_short_results_are_those_of_the_records():
    assert between(README, 'results') == results_table.short_markdown(result_rows())


def test_cifar10_rows_are_those_of_the_records():
    shown = dict(re.findall(r'\[([\d.]+)\]\(\.\./(work_dirs_template/cifar10_rows/[^)]+)\)', TOOLS))
    folder = ROOT / 'work_dirs_template/cifar10_rows'
    top1 = {path: read_pretraining(path)['metrics']['test']['top1'] for path in folder.rglob('record.json')}
    assert shown == {
        f'{100 - 100 * value:.2f}': str(path.relative_to(ROOT)) for path, value in top1.items()
    }


@pytest.mark.parametrize(('text', 'count'), [(README, 6), (section(TOOLS, 'Transfer study'), 8)])
def test_the_metrics_of_the_study_are_those_of_its_report(text, count):
    stated = (STUDY / 'report/report.md').read_text(encoding='utf-8').replace('\\', '').replace('+', '')
    found = re.findall(r'-?\d+\.\d+ \[[^\]]+\]', text) + re.findall(r'\d+ of \d+ pairs', text)
    assert len(found) == count
    for value in found:
        assert value in stated, value


def test_the_report_of_the_study_is_that_of_the_records(monkeypatch):
    """Compare the tables of networks, which hold no bootstrap interval."""
    monkeypatch.setattr(correlation, 'RESAMPLES', 99)
    found = sources.settings_from_records(results_table.find_records([str(STUDY)]), 'voc/ap50_11point')
    made = study.make_study(*found)
    svgs = {f'scatter_{i}': b'' for i in range(1, len(made.settings) + 1)}
    text = report.to_markdown(report.make_blocks(made, svgs, STUDY / 'report'))
    kept = (STUDY / 'report/report.md').read_text(encoding='utf-8')
    networks, expected = ([line for line in t.splitlines() if 'record.json' in line] for t in (text, kept))
    assert networks == expected
    assert len(networks) == 2 * 11


@pytest.mark.parametrize(('page', 'command', 'output'), [*documented_commands()])
def test_a_documented_command_prints_what_the_page_shows(page, command, output, tmp_path: Path):
    assert run(command, tmp_path) == output, f'python tests/helpers/pages.py updates {page}'
