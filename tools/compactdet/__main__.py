"""The command ``compactdet``: `compactdet train CONFIG` runs `python tools/train.py CONFIG`."""

from __future__ import annotations

import ast
import difflib
import runpy
import sys
from pathlib import Path

from compactdet.errors import UserError, run_main

TOOLS = Path(__file__).resolve().parents[1]


def tools() -> dict[str, Path]:
    """Return the script of each tool by the tool's name.

    Raises:
        UserError: The scripts are not beside the package: it was not installed from a clone with ``-e``.
    """
    scripts = {path.stem: path for path in sorted(TOOLS.glob('*.py'))}
    if 'train' not in scripts:
        raise UserError(
            f'{TOOLS} has no tools; install a clone of the repository with `python -m pip install -e .`'
        )
    return scripts


def main() -> None:
    """Run the tool that the first argument names, or list the tools."""
    scripts = tools()
    if len(sys.argv) < 2 or sys.argv[1] in ('-h', '--help'):
        print('usage: compactdet TOOL ...\n')
        for name, script in scripts.items():
            doc = ast.get_docstring(ast.parse(script.read_text(encoding='utf-8'))) or ''
            print(f'  {name:16}{doc.splitlines()[0]}')
        print('\n`compactdet TOOL --help` shows the options of a tool.')
        return
    name = sys.argv[1]
    if name not in scripts:
        near = difflib.get_close_matches(name, scripts, 1)
        hint = f'did you mean {near[0]}?' if near else f'one of {", ".join(scripts)}'
        raise UserError(f'no tool {name}; {hint}')
    sys.argv = [str(scripts[name]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name='__main__')


def run() -> None:
    """Run `main`; a user's error ends in one line."""
    run_main(main)


if __name__ == '__main__':
    run()
