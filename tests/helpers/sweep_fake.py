"""Stand-ins for the trainings of a sweep: they take no time, and end as a test says.

``sweep_fake.py sweep ARGUMENTS`` is ``tools/sweep.py`` with them; ``sweep_fake.py train ARGUMENTS`` is one.
``OUT/script.json`` says how the attempts of a job end, ``{NAME: [HOW, ...]}``, the last HOW for all further
ones; ``OUT/journal.txt`` gets a line at the begin and at the end of each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

REPO = Path(__file__).parents[2]
TEMPLATE = REPO / 'work_dirs_template' / 'shapes_seed0' / 'record.json'


def config_text(arch, detector, dataset, lr) -> str:
    data = f'dict(name={dataset!r}, sizes=(1, 2))'
    return f'arch = {arch!r}\ndata = {data}\ndetector = {detector!r}\nlr = {lr}\n'


def sha256(init: str | None) -> str | None:
    return None if init in (None, 'none') else hashlib.sha256(Path(init).read_bytes()).hexdigest()


def suite(out: Path):
    from compactdet.config.resolved import read_comparable_config
    from compactdet.records.run_identity import NOT_THERE, RunIdentity
    from compactdet.sweep.grid import Run
    from compactdet.sweep.jobs import Suite

    class Fake(Suite):
        def command(self, job, *, resume):
            resumed = ['--resume'] if resume else []
            return [sys.executable, __file__, 'train', *resumed, *job.arguments(self.out)]

        def sweep_command(self):
            return [sys.executable, __file__, 'sweep']

        def check(self, jobs):
            pass

        def read(self, job):
            path = self.out / job.name / 'record.json'
            if isinstance(job, Run) or not path.exists():
                return super().read(job)
            return json.loads(path.read_text())

        def stated(self, job, record):
            if isinstance(job, Run):
                return super().stated(job, record)
            config = {key: record[key] for key in ('dataset', 'recipe')}
            return RunIdentity(record['arch'], record['seed'], None, config)

        def identity(self, job):
            if not isinstance(job, Run):
                config = {'dataset': job.dataset, 'recipe': job.recipe}
                return RunIdentity(job.arch, job.seed, None, config)
            init = job.start(self.out)
            there = init in (None, 'none') or Path(init).is_file()
            config = read_comparable_config(config_text(job.arch, job.detector, job.dataset, job.lr))
            return RunIdentity(job.arch, job.seed, sha256(init) if there else NOT_THERE, config)

    return Fake(out)


def train(args: argparse.Namespace) -> None:
    folder, out = args.work_dir, args.work_dir.parent
    script = json.loads((out / 'script.json').read_text()) if (out / 'script.json').is_file() else {}
    ways = script.get(folder.name) or ['finish']
    folder.mkdir(parents=True, exist_ok=True)
    attempts = folder / 'attempts.txt'
    with attempts.open('a') as file:
        file.write('x')
    way = ways[min(len(attempts.read_text()), len(ways)) - 1]
    journal(
        out, f'begin {folder.name} {"resumed" if args.resume else "new"} {os.environ["OMP_NUM_THREADS"]}'
    )
    print('epoch 1/2 · step 5/10 · loss 0.500 · 1:20 min left to train', flush=True)
    if way == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    if way == 'user':
        sys.exit('error: the data set is absent')
    if way == 'usage':
        sys.exit(2)
    if way == 'crash':
        raise RuntimeError('DataLoader worker is killed by signal: Killed.')
    if way == 'three':
        sys.exit(3)
    if way == 'nothing':
        return
    if way == 'stubborn':
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if way in ('wait', 'stubborn'):
        (folder / 'pid').write_text(str(os.getpid()))
        time.sleep(120)
    if way == 'wait8':
        (folder / 'pid').write_text(str(os.getpid()))
        time.sleep(8)
    if way.startswith('sleep'):
        time.sleep(float(way.removeprefix('sleep')))
    (pretrain_record if args.detector is None else record)(args)
    journal(out, f'end {folder.name}')


def journal(out: Path, line: str) -> None:
    with (out / 'journal.txt').open('a') as file:
        file.write(f'{line}\n')


def record(args: argparse.Namespace) -> None:
    from compactdet.records import record_file

    made = json.loads(TEMPLATE.read_text())
    made |= {'arch': args.arch, 'detector': args.detector, 'seed': args.seed}
    made['init']['sha256'] = sha256(args.init)
    made['config']['text'] = config_text(args.arch, args.detector, args.dataset, args.lr)
    record_file.write(args.work_dir / 'record.json', made)


def pretrain_record(args: argparse.Namespace) -> None:
    (args.work_dir / 'weights.safetensors').write_bytes(f'{args.arch} {args.seed}'.encode())
    made = {'arch': args.arch, 'seed': args.seed, 'dataset': args.dataset}
    (args.work_dir / 'record.json').write_text(json.dumps({**made, 'recipe': args.recipe}))


def sweep(arguments: list[str]) -> int:
    from compactdet.sweep import command as sweep
    from compactdet.sweep import options

    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return sweep.main(options.parse(parser, arguments), suite)


def main() -> None:
    sys.path.insert(0, str(REPO / 'tools'))
    mode = sys.argv.pop(1)
    parser = argparse.ArgumentParser()
    if mode == 'train':
        for name in ('arch', 'detector', 'dataset', 'schedule', 'init', 'recipe', 'data-root'):
            parser.add_argument(f'--{name}')
        parser.add_argument('--seed', type=int)
        parser.add_argument('--epochs', type=int)
        parser.add_argument('--lr', type=float)
        parser.add_argument('--work-dir', type=Path)
        parser.add_argument('--resume', action='store_true')
        parser.add_argument('--cfg-options', nargs='+')
        train(parser.parse_args())
        return
    from compactdet.errors import run_main

    run_main(lambda: sweep(sys.argv[1:]))


if __name__ == '__main__':
    main()
