"""Generated parts of the Markdown pages: tables, and commands with their output.

A command block after the line ``<!-- run -->`` is run, and its output is compared with the block after it.
A table is generated between ``<!-- NAME -->`` and ``<!-- /NAME -->``. ``python tests/helpers/pages.py``
brings every page up to date.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    'README.md',
    'backbones/README.md',
    'det_configs/README.md',
    'det_configs/settings.md',
    'tools/README.md',
    'tests/README.md',
    'work_dirs_template/README.md',
    'work_dirs_template/results.md',
)
COMMAND = re.compile(
    r'<!-- run -->\n```bash\n(?P<command>.*?)\n```\n\n```\n(?P<output>.*?)\n```\n', re.DOTALL
)


def documented_commands() -> Iterator[tuple[str, str, str]]:
    """Yield page, command and documented output of every command that is run."""
    for page in PAGES:
        for found in COMMAND.finditer((ROOT / page).read_text(encoding='utf-8')):
            yield page, found['command'], found['output']


def run(command: str, folder: Path) -> str:
    """Run a documented command in a folder that has the checkout's folders in it; return what it prints.

    Raises:
        subprocess.CalledProcessError: The exit status is not 0.
    """
    for name in ('tools', 'det_configs', 'work_dirs_template', 'backbones'):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    done = subprocess.run(
        command.replace('python ', f'{sys.executable} ', 1),
        shell=True,
        check=True,
        cwd=folder,
        env={**os.environ, 'COLUMNS': '118'},
        stdout=subprocess.PIPE,
        text=True,
    )
    return '\n'.join(line.rstrip() for line in done.stdout.strip('\n').splitlines())


def zoo() -> str:
    """Return the table of all networks with their measured costs."""
    head = (
        'network',
        'source',
        'size',
        'MACs, M',
        'published',
        'params, M',
        'backbone MACs, M',
        'stride: channels',
    )
    lines = [head, ('---',) * 3 + ('---:',) * 4 + ('---',)]
    rows = json.loads((ROOT / 'tests/golden/complexity.json').read_text(encoding='utf-8'))
    for row in rows:
        published = row['paper_mflops']
        lines.append(
            (
                f'`{row["arch"]}`',
                row['paper'],
                str(row['size']),
                f'{row["macs"] / 1e6:.1f}',
                '-' if published is None else f'{published:g}',
                f'{row["params"] / 1e6:.2f}',
                f'{row["backbone_macs"] / 1e6:.1f}',
                ', '.join(f'{stride}: {channels}' for stride, channels in row['strides'].items()),
            )
        )
    return ''.join('| ' + ' | '.join(line) + ' |\n' for line in lines)


def results(short: bool) -> str:
    """Return the table of the committed records of BCCD and shapes."""
    sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]
    from compactdet.records import results_table

    folder = ROOT / 'work_dirs_template'
    places = [str(path) for name in ('bccd_*', 'shapes_*') for path in sorted(folder.glob(name))]
    rows = results_table.rows(results_table.find_records(places))
    return results_table.short_markdown(rows) if short else results_table.markdown(rows, folder)


def variations() -> str:
    """Return the table of MMDetection's parts that were tried."""
    sys.path[:0] = [str(ROOT), str(ROOT / 'tools'), str(ROOT / 'tests' / 'helpers')]
    import variations as rows

    return rows.table()


def settings() -> str:
    """Return the tables of where the settings of the papers' rows come from."""
    sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]
    import settings_table  # here: needs MMDetection, which the other tables do without

    return settings_table.markdown(settings_table.rigs())


# Page, name of the block, content.
TABLES: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ('backbones/README.md', 'zoo', zoo),
    ('det_configs/README.md', 'variations', variations),
    ('det_configs/settings.md', 'settings', settings),
    ('README.md', 'results', lambda: results(short=True)),
    ('work_dirs_template/results.md', 'results', lambda: results(short=False)),
)


def table_in(page: str, name: str) -> str:
    """Return the generated table in a page."""
    text = (ROOT / page).read_text(encoding='utf-8')
    return text.partition(f'<!-- {name} -->\n')[2].partition(f'<!-- /{name} -->')[0]


def main() -> None:
    """Write every generated table and the output of every documented command into its page."""
    for page, name, make in TABLES:
        path = ROOT / page
        before, _, rest = path.read_text(encoding='utf-8').partition(f'<!-- {name} -->\n')
        after = rest.partition(f'<!-- /{name} -->')[2]
        path.write_text(f'{before}<!-- {name} -->\n{make()}<!-- /{name} -->{after}', encoding='utf-8')
    with tempfile.TemporaryDirectory() as folder:
        for page in PAGES:
            path = ROOT / page
            text = path.read_text(encoding='utf-8')

            def present(found: re.Match[str]) -> str:
                output = run(found['command'], Path(folder))
                return f'<!-- run -->\n```bash\n{found["command"]}\n```\n\n```\n{output}\n```\n'

            path.write_text(COMMAND.sub(present, text), encoding='utf-8')


if __name__ == '__main__':
    main()
