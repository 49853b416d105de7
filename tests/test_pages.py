"""The Markdown pages: what they list exists, and their results, commands and outputs are the real ones."""

import re
import subprocess
import sys
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


def test_the_metrics_of_the_latency_study_are_those_of_its_report():
    report = (ROOT / 'work_dirs_template/latency_study/report.md').read_text(encoding='utf-8')
    found = re.findall(r'(\d\.\d+) \((\d\.\d+ to \d\.\d+)\)', README)
    assert len(found) == 5
    for value, interval in found:
        assert f'| {value} | {interval} |' in report or f'{value} [{interval}]' in report
    for backend, median in (('onnxruntime', '0.29'), ('openvino', '0.28')):
        assert re.search(rf'{backend}: latency over .*: median {median}, ', report)


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


def test_every_leaf_config_is_listed():
    text = TEXTS['det_configs/README.md']
    for pattern in ('*.py', 'pretrain/*.py', 'sweeps/*.yaml'):
        for path in (ROOT / 'det_configs').glob(pattern):
            link = path.relative_to(ROOT / 'det_configs')
            assert f'[{path.name}]({link})' in text, f'{link} is not listed'


USE_THE_EXAMPLE = """
import torch
from matrix import check_pair
from mmengine.registry import DefaultScope

from backbones import StageHead, build_backbone, build_classifier
from backbones.wiring import detectors, frcnn_c4

images = torch.rand(2, 3, 64, 96)
shapes = [(16, 16, 24), (64, 8, 12), (128, 4, 6), (256, 2, 3)]
assert [m.shape[1:] for m in build_backbone('mynet_1x', (4, 8, 16, 32))(images)] == shapes
assert StageHead('mynet_1x')(torch.rand(1, 128, 7, 7)).shape == (1, 256, 7, 7)
assert build_classifier('mynet_1x', 10)(images).shape == (2, 10)
assert frcnn_c4('mynet_1x', num_classes=20)['roi_head']['bbox_head']['in_channels'] == 256

assert detectors('mynet_1x') == ('frcnn_c4', 'frcnn_fpn', 'retinanet_fpn')
with DefaultScope.overwrite_default_scope('mmdet'):
    for detector in detectors('mynet_1x'):
        check_pair('mynet_1x', detector)
print('works')
"""


def test_the_example_network_works():
    code = re.search(
        r'```python\n(.*?)```', section(TEXTS['backbones/README.md'], 'Adding a network'), re.DOTALL
    )[1]
    # In a separate process: the example must not be among the networks of other tests.
    done = subprocess.run(
        [sys.executable, '-c', code + USE_THE_EXAMPLE],
        cwd=ROOT / 'tests/helpers',
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith('works\n'), done.stderr


@pytest.mark.parametrize(('page', 'command', 'output'), [*documented_commands()])
def test_a_documented_command_prints_what_the_page_shows(page, command, output, tmp_path: Path):
    assert run(command, tmp_path) == output, f'python tests/helpers/pages.py updates {page}'
