"""Run a Python program with mmcv's operators provided: ``python -m backbones PROGRAM ARGS``.

usage: python -m backbones PROGRAM.py [ARGS ...]
       python -m backbones -m MODULE [ARGS ...]

For programs that import MMDetection before they read a config, such as its own tools (MMDET is its
folder):

    python -m backbones MMDET/.mim/tools/test.py det_configs/menet_frcnn_voc.py CHECKPOINT
"""

import importlib.util
import os
import runpy
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Run the program that ``argv`` names, as ``python`` itself would.

    Returns:
        Exit status: 2 on bad usage, 1 if there is no such program, otherwise 0 (unless the program itself
        ends the process with another one).
    """
    usage = (__doc__ or '').partition('\n\n')[2].rstrip()
    if argv[:1] in (['-h'], ['--help']):
        print(usage)
        return 0
    is_module = argv[:1] == ['-m']
    program_argv = argv[is_module:]
    if not program_argv or program_argv[0].startswith('-'):
        print(usage, file=sys.stderr)
        return 2
    program = program_argv[0]
    if not (_module_exists(program) if is_module else Path(program).is_file()):
        kind = 'module' if is_module else 'file'
        print(f'error: there is no {kind} {program!r} to run', file=sys.stderr)
        return 1
    sys.argv = program_argv
    if is_module:
        runpy.run_module(program, run_name='__main__', alter_sys=True)
    else:
        # `python -m` puts the working directory first; a script has its own folder there.
        sys.path[0] = os.path.realpath(Path(program).parent)
        runpy.run_path(program, run_name='__main__')
    return 0


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a parent package
        return False


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
