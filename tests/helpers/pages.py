"""Commands on the Markdown pages, with the output that stands beside them.

A command block after the line ``<!-- run -->`` is run, and its output is compared with the block after it.
``python tests/helpers/pages.py`` writes the present output of every such command into the pages.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    'README.md',
    'backbones/README.md',
    'det_configs/README.md',
    'tools/README.md',
    'tests/README.md',
    'work_dirs_template/README.md',
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


def main() -> None:
    """Write the present output of every documented command into its page."""
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
