r"""Kills a training with SIGKILL again and again and compares what is left with one that was never killed.

Example (from tools/):
    python -m compactdet.benchmarks.resume ../det_configs/menet_frcnn_shapes.py --kills 20
    python -m compactdet.benchmarks.resume ../det_configs/menet_frcnn_shapes.py --cfg-options \
        train_cfg.max_epochs=2 train_dataloader.dataset.indices=48

The moments are drawn from a seed: anywhere, while a checkpoint is being written, and in the validation that
follows one. Weights, optimizer, schedules, generators, losses, figures and record must be the same, bit for
bit; only times may differ.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from compactdet.errors import UserError, run_main
from compactdet.files import load_json
from compactdet.records import record_file
from compactdet.training.checkpoints import read_checkpoint

TRAIN = Path(__file__).parents[2] / 'train.py'
MOMENTS = ('anywhere', 'writing', 'validation')
POLL_S = 0.002
# What a record says of times and machines, and how the run was called.
TIMES = ('created_utc', 'command', 'git', 'evaluation', 'training.wall_s', 'training.images_per_s',
         'training.peak_memory_bytes')  # fmt: skip


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='its folder of data must be there, or be the embedded one')
    parser.add_argument('--kills', type=int, default=20, help='how often; default: 20')
    parser.add_argument('--seed', type=int, default=0, help='of the moments; default: 0')
    parser.add_argument('--minutes', type=float, default=0.05, help='between states; default: 0.05')
    parser.add_argument(
        '--work-dir', type=Path, help='an empty folder for the runs; default: a temporary one'
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as of tools/train.py')
    args = parser.parse_args()
    if args.kills < 1:
        parser.error(f'--kills {args.kills} is not above 0')
    return args


def main() -> int:
    """Runs, kills, compares; status 1 if anything differs."""
    args = parse_args()
    options = [
        *('train_dataloader.num_workers=2', 'val_dataloader.num_workers=1', 'train_cfg.val_interval=1'),
        *('default_hooks.checkpoint.save_best=voc/ap50_11point', 'default_hooks.checkpoint.rule=greater'),
        f'default_hooks.checkpoint.minutes={args.minutes}',
        *args.cfg_options,
    ]
    command = [sys.executable, str(TRAIN), args.config, '--cfg-options', *options]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work_dir or Path(temporary)
        return compare(command, folder, args.kills, random.Random(args.seed))


def compare(command: Sequence[str], folder: Path, kills: int, draw: random.Random) -> int:
    """The unkilled run, then as many killed ones as the kills need; returns the exit status.

    Raises:
        UserError: The training fails by itself.
    """
    started = time.monotonic()
    finish(start(command, folder / 'whole'))
    whole_s = time.monotonic() - started
    print(f'never killed: {whole_s:.0f} s', flush=True)
    made: Counter[str] = Counter()
    status = run = 0
    while made.total() < kills:
        run += 1
        killed = folder / f'killed_{run}'
        ended = False
        while not ended and made.total() < kills:
            moment = MOMENTS[made.total() % len(MOMENTS)]
            process = start(command, killed)
            ended = not wait_for(moment, process, killed, draw, whole_s)
            process.send_signal(signal.SIGKILL)
            process.wait()
            if not ended:
                made[moment] += 1
                left = ', '.join(sorted(path.name for path in killed.glob('*.p*')))
                print(f'kill {made.total()}: {moment}; left: {left or "nothing"}', flush=True)
        finish(start(command, killed))
        found = differences(folder / 'whole', killed)
        status |= bool(found)
        said = '; '.join(found) or 'the same as the run that was never killed'
        print(f'run {run}, {made.total()} kills so far: {said}', flush=True)
    print(', '.join(f'{number} {moment}' for moment, number in made.items()))
    return status


def start(command: Sequence[str], work_dir: Path) -> subprocess.Popen[bytes]:
    """A training in a process of its own, which goes on where there is something to go on from."""
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    with (work_dir.parent / f'{work_dir.name}.txt').open('a') as said:
        whole = [*command, '--work-dir', str(work_dir), '--resume']
        return subprocess.Popen(whole, stdout=said, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Waits for the end.

    Raises:
        UserError: It failed.
    """
    if process.wait() != 0:
        raise UserError(f'the training failed (status {process.returncode}): {process.args!r}')


def wait_for(
    moment: str, process: subprocess.Popen[bytes], work_dir: Path, draw: random.Random, whole_s: float
) -> bool:
    """Waits for the moment to kill; False if the training ended before."""
    delay_s = draw.uniform(0, whole_s)
    after_s = draw.uniform(0, 1.5)  # of a checkpoint, which a validation follows
    before = names(work_dir)
    until = time.monotonic() + delay_s
    while process.poll() is None:
        if moment == 'anywhere' and time.monotonic() >= until:
            return True
        if moment == 'writing' and any(work_dir.glob('*.part')):
            return True
        if moment == 'validation' and any('epoch_' in name for name in names(work_dir) - before):
            time.sleep(after_s)
            return process.poll() is None
        time.sleep(POLL_S)
    return False


def names(work_dir: Path) -> set[str]:
    """Of the checkpoints in a folder."""
    return {path.name for path in work_dir.glob('*.pth')}


def differences(whole: Path, killed: Path) -> list[str]:
    """What two runs' folders differ in, apart from times."""
    found = [f'{name} is in one only' for name in sorted(names(whole) ^ names(killed))]
    for name in sorted(names(whole) & names(killed)):
        one, other = (dict(flat(substance(read_checkpoint(run / name)))) for run in (whole, killed))
        unlike = [key for key in one.keys() | other.keys() if not equal(one.get(key), other.get(key))]
        found += [f'{name}: {len(unlike)} entries, such as {min(unlike)}'] if unlike else []
    one, other = (dict(flat(load_json(run / 'record.json'))) for run in (whole, killed))
    unlike = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
    found += [f'record: {key}' for key in unlike if not key.startswith(TIMES)]
    for run in (whole, killed):
        record_file.read(run / 'record.json')
    return found


def substance(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What of a checkpoint must be the same: all but times, names of folders and the machine."""
    kept = {
        key: value for key, value in checkpoint.items() if key not in ('meta', 'message_hub', 'progress')
    }
    hub, progress = checkpoint['message_hub'], checkpoint.get('progress')
    if progress:
        kept['generators'] = [process['generators'] for process in progress['processes']]
        kept['position'] = {key: progress[key] for key in ('epoch', 'iter', 'turn', 'batch', 'validated')}
    kept['curves'] = {
        key: buffer.data[0] for key, buffer in hub['log_scalars'].items() if not key.endswith('time')
    }
    kept['best'] = {
        key: value for key, value in hub['runtime_info'].items() if key.startswith('best_score')
    }
    return kept


def flat(value: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """The leaves of nested containers, each with its place."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f'{place}.{key}' if place else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from flat(item, f'{place}.{number}')
    else:
        yield place, value


def equal(one: Any, other: Any) -> bool:
    """Bit for bit; NaN equals NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        one, other = one.numpy(), other.numpy()
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or (one != one and other != other))


if __name__ == '__main__':
    run_main(main)
