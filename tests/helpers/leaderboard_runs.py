"""Runs with the figures that a test wants, and leaderboards of them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from compactdet.leaderboard import board as leaderboard
from compactdet.leaderboard.groups import Board, Group
from compactdet.records import record_file

TEMPLATE = Path(__file__).parents[2] / 'work_dirs_template'
MAIN = 'voc/ap50_11point'
HOSTILE = '</script><script>window.pwned = 1</script><img src=x onerror="window.pwned=2">|`<b>*x*'


def example_record() -> dict[str, Any]:
    """A committed record with a small protocol, as ``records.write`` takes it."""
    record = json.loads((TEMPLATE / 'bccd_imagenet_seed0' / 'record.json').read_text(encoding='utf-8'))
    del record['keys'], record['config']['sha256']
    record['protocol'] = {'init': 'ImageNet', 'optimiser': {'lr': 0.02}}
    record['dataset']['classes'] = ['RBC', 'WBC']
    return record


def run(
    folder: Path,
    arch: str,
    seed: int,
    ap: float | None,
    *,
    macs: int = 613,
    images_per_s: float = 4.0,
    images: tuple[float, float] | None = None,
    **changes: Any,
) -> Path:
    """Writes a record with the AP, and its interval over images; `changes` are of its top level."""
    record = example_record() | {'arch': arch, 'seed': seed} | changes
    record['init']['sha256'] = hashlib.sha256(arch.encode()).hexdigest()
    record['evaluation']['images_per_s'] = images_per_s
    record['costs']['at_input']['total_macs'] = macs
    test = {MAIN: ap, 'coco/ap': None if ap is None else ap / 2, f'{MAIN}/RBC': ap, f'{MAIN}/WBC': ap}
    if images:
        test |= {f'{MAIN}_low95': images[0], f'{MAIN}_high95': images[1]}
    record['metrics']['test'] = test
    path = folder / f'{len(list(folder.glob("*")))}' / 'record.json'
    path.parent.mkdir(parents=True)
    record_file.write(path, record)
    return path


def seeds(folder: Path, arch: str, *aps: float, **changes: Any) -> None:
    for seed, ap in enumerate(aps):
        run(folder, arch, seed, ap, **changes)


def board(*places: Path, add: tuple[Path, ...] = ()) -> Board:
    return leaderboard.make([*map(str, places)], [*map(str, add)], Path('out'))


def measured(made: Board) -> list[Group]:
    return [group for group in made.groups if group.is_measured]
