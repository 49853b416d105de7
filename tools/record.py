"""Write the record of a finished training that could not write it.

Example:
    python tools/record.py work_dirs/menet_frcnn_shapes

The run folder then has the content of the record as unfinished_record.json. Training and test are not
repeated.
"""

from pathlib import Path

from compactdet.arguments import make_parser
from compactdet.errors import run_main


def main() -> None:
    """Write record.json and print its path."""
    parser = make_parser(__doc__)
    parser.add_argument('run_dir', type=Path, metavar='RUN_DIR', help='folder of the training')
    run_dir = parser.parse_args().run_dir
    from compactdet.records import unfinished  # here: --help starts fast

    print(f'written: {unfinished.finish_record(run_dir)}')


if __name__ == '__main__':
    run_main(main)
