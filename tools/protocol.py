"""Show the protocol of a run, or the differences between the protocols of two runs.

Examples:
    python tools/protocol.py work_dirs_template/bccd_imagenet_seed0
    python tools/protocol.py work_dirs_template/bccd_imagenet_seed0 work_dirs_template/bccd_random_seed0

Only results of one protocol may be ranked together.
"""

import argparse
import json
from dataclasses import asdict

from compactdet.arguments import add_format, make_parser
from compactdet.errors import run_main


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('run', help='a record.json or the folder of a finished run')
    parser.add_argument('other', nargs='?', help='a second run, to compare with')
    add_format(parser)
    return parser.parse_args()


def main() -> None:
    """Print the summary of a protocol, or the differences between two."""
    args = parse_args()
    # here: --help starts without loading jsonschema
    from compactdet.records import display
    from compactdet.records.protocol_diff import find_differences, read_protocol
    from compactdet.records.protocol_summary import summarize

    key, protocol = read_protocol(args.run)
    if args.other is None:
        if args.format == 'json':
            rows = dict(summarize(protocol).rows())
            print(json.dumps({'key': key, 'card': rows, 'protocol': protocol}, indent=2))
        else:
            display.show_protocol(protocol)
        return
    other_key, other = read_protocol(args.other)
    found = find_differences(protocol, other)
    if args.format == 'json':
        print(json.dumps({'keys': [key, other_key], 'differences': [*map(asdict, found)]}, indent=2))
    else:
        display.show_differences(args.run, args.other, (key, other_key), found)


if __name__ == '__main__':
    run_main(main)
