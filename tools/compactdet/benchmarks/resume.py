r"""Kill a training with SIGKILL repeatedly, and compare its results with an uninterrupted training.

Example (in tools/, or with the package installed):
    python -m compactdet.benchmarks.resume ../det_configs/menet_frcnn_shapes.py --kills 20
    python -m compactdet.benchmarks.resume ../det_configs/menet_frcnn_shapes.py --cfg-options \
        train_cfg.max_epochs=2 train_dataloader.dataset.indices=48

The times of the kills are random: at any time, while a checkpoint is written, and in the validation after a
checkpoint. Weights, optimizer, schedules, random generators, losses, metrics and record must be equal, bit
for bit; only times may differ.
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
from dataclasses import dataclass
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
# Entries of a record on times, the machine and the command.
TIMES = ('created_utc', 'command', 'git', 'evaluation', 'training.wall_s', 'training.images_per_s',
         'training.peak_memory_bytes')  # fmt: skip


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file; its data set must exist or be the embedded one')
    parser.add_argument('--kills', type=int, default=20, help='number of kills; default: 20')
    parser.add_argument('--seed', type=int, default=0, help='seed of the times; default: 0')
    parser.add_argument(
        '--minutes', type=float, default=0.05, help='longest time between training states; default: 0.05'
    )
    parser.add_argument(
        '--work-dir', type=Path, help='an empty folder for the runs; default: a temporary folder'
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as in tools/train.py')
    args = parser.parse_args()
    if args.kills < 1:
        parser.error(f'--kills {args.kills} is not positive')
    return args


def main() -> int:
    """Run, kill, resume and compare; return exit status 1 if a result differs."""
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


def compare(command: Sequence[str], folder: Path, kills: int, rng: random.Random) -> int:
    """Train without interruption, then with kills, as often as the kills require; return the exit status.

    Args:
        command: The training command without work dir.
        folder: Folder for the run folders.
        kills: Number of kills.
        rng: Random generator of the times.

    Raises:
        UserError: A training fails without being killed.
    """
    started = time.monotonic()
    finish(start(command, folder / 'whole'))
    duration_s = time.monotonic() - started
    print(f'never killed: {duration_s:.0f} s', flush=True)
    done: Counter[str] = Counter()
    status = run = 0
    while done.total() < kills:
        run += 1
        work_dir = folder / f'killed_{run}'
        ended = False
        while not ended and done.total() < kills:
            process = start(command, work_dir)
            moment = Moment(MOMENTS[done.total() % len(MOMENTS)], duration_s, rng)
            ended = not moment.wait(process, work_dir)
            process.send_signal(signal.SIGKILL)
            process.wait()
            if not ended:
                done[moment.kind] += 1
                files = ', '.join(sorted(path.name for path in work_dir.glob('*.p*')))
                print(f'kill {done.total()}: {moment.kind}; files: {files or "none"}', flush=True)
        finish(start(command, work_dir))
        found = differences(folder / 'whole', work_dir)
        status |= bool(found)
        result = '; '.join(found) or 'equal to the run that was never killed'
        print(f'run {run}, {done.total()} kills so far: {result}', flush=True)
    print(', '.join(f'{number} {kind}' for kind, number in done.items()))
    return status


def start(command: Sequence[str], work_dir: Path) -> subprocess.Popen[bytes]:
    """Start a training process that resumes from the newest training state, if there is one."""
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    with (work_dir.parent / f'{work_dir.name}.txt').open('a') as output:
        arguments = [*command, '--work-dir', str(work_dir), '--resume']
        return subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait until a training ends.

    Raises:
        UserError: The training failed.
    """
    if process.wait() != 0:
        raise UserError(f'the training failed (exit status {process.returncode}): {process.args!r}')


@dataclass
class Moment:
    """The time of a kill.

    Attributes:
        kind: One of ``MOMENTS``.
        duration_s: Duration of the uninterrupted training.
        rng: Random generator of the times.
    """

    kind: str
    duration_s: float
    rng: random.Random

    def wait(self, process: subprocess.Popen[bytes], work_dir: Path) -> bool:
        """Wait for the moment; return False if the training ended before."""
        delay_s = self.rng.uniform(0, self.duration_s)
        after_s = self.rng.uniform(0, 1.5)  # after a checkpoint that a validation follows
        before = checkpoint_names(work_dir)
        until = time.monotonic() + delay_s
        while process.poll() is None:
            if self.kind == 'anywhere' and time.monotonic() >= until:
                return True
            if self.kind == 'writing' and any(work_dir.glob('*.part')):
                return True
            new = checkpoint_names(work_dir) - before
            if self.kind == 'validation' and any('epoch_' in name for name in new):
                time.sleep(after_s)
                return process.poll() is None
            time.sleep(POLL_S)
        return False


def checkpoint_names(work_dir: Path) -> set[str]:
    """Return the file names of the checkpoints in a folder."""
    return {path.name for path in work_dir.glob('*.pth')}


def differences(whole: Path, killed: Path) -> list[str]:
    """Return the differences between two run folders, except times; empty if there are none."""
    names, others = checkpoint_names(whole), checkpoint_names(killed)
    found = [f'{name} is in one folder only' for name in sorted(names ^ others)]
    for name in sorted(names & others):
        one, other = (
            dict(flatten(compared_content(read_checkpoint(run / name)))) for run in (whole, killed)
        )
        unequal = [key for key in one.keys() | other.keys() if not equal(one.get(key), other.get(key))]
        found += [f'{name}: {len(unequal)} entries, such as {min(unequal)}'] if unequal else []
    one, other = (dict(flatten(load_json(run / 'record.json'))) for run in (whole, killed))
    unequal = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
    found += [f'record: {key}' for key in unequal if not key.startswith(TIMES)]
    for run in (whole, killed):
        record_file.read(run / 'record.json')
    return found


def compared_content(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's content except times, folder names and the machine."""
    kept = {
        key: value for key, value in checkpoint.items() if key not in ('meta', 'message_hub', 'progress')
    }
    hub, progress = checkpoint['message_hub'], checkpoint.get('progress')
    if progress:
        for part in ('generators', 'hooks'):
            kept[part] = [process[part] for process in progress['processes']]
        kept['position'] = {key: progress[key] for key in ('epoch', 'iter', 'turn', 'batch', 'validated')}
    kept['curves'] = {
        key: buffer.data[0] for key, buffer in hub['log_scalars'].items() if not key.endswith('time')
    }
    kept['best'] = {
        key: value for key, value in hub['runtime_info'].items() if key.startswith('best_score')
    }
    return kept


def flatten(value: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """Return the leaves of nested containers with their dotted paths."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, f'{place}.{key}' if place else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from flatten(item, f'{place}.{number}')
    else:
        yield place, value


def equal(one: Any, other: Any) -> bool:
    """Return True if two values are equal bit for bit; NaN equals NaN."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        one, other = one.numpy(), other.numpy()
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and (one == other or (one != one and other != other))


if __name__ == '__main__':
    run_main(main)
