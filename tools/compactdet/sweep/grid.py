"""The grid of a sweep, from a YAML file or a command line, as a list of jobs.

A grid is a mapping of lists (``archs, detectors, datasets, seeds, init, frozen_stages``) and of options
that all its runs share (``schedule, lr, cfg_options, data_root, amp, pretrain, name``). With ``blocks``, a
list of such mappings, it is their union; keys beside ``blocks`` apply to all of them.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compactdet.config.choice import CUSTOM, DATASET_NAMES, DETECTORS
from compactdet.errors import UserError
from compactdet.sweep.grid_file import cfg_options, check_keys, list_of, one, read_yaml

PRETRAINING = 'pretraining'  # value of init: start from the pretraining of the block
EACH = 'each'  # value of its seed: one pretraining per seed of the detector
AXES = ('archs', 'detectors', 'datasets', 'seeds', 'init', 'frozen_stages')
NEEDED = ('archs', 'detectors', 'datasets')
OPTIONS = ('schedule', 'lr', 'cfg_options', 'data_root', 'amp', 'pretrain', 'name')
LONGEST = 200  # bytes of a job name; file systems allow 255, and logs and locks add a suffix
PRETRAIN_KEYS = ('dataset', 'recipe', 'epochs', 'size', 'seed', 'data_root')


@dataclass(frozen=True)
class Pretraining:
    """A job: a classification training whose weights detectors start from."""

    arch: str
    dataset: str
    recipe: str | None = None
    epochs: int | None = None
    size: int | None = None
    seed: int = 0
    data_root: str | None = None

    @functools.cached_property
    def name(self) -> str:
        """Name of its folder."""
        epochs = None if self.epochs is None else f'{self.epochs}e'
        size = None if self.size is None else f'{self.size}px'
        words = (self.arch, PRETRAINING, self.dataset, self.recipe, epochs, size, f'seed{self.seed}')
        return _file_name('_'.join(filter(None, words)))

    @property
    def needs(self) -> str | None:
        """Job that must be finished before: none."""
        return None

    def weights(self, out: Path) -> Path:
        """Return its weights file in the folder of a sweep."""
        return out / self.name / 'weights.safetensors'

    def arguments(self, out: Path) -> list[str]:
        """Return the arguments of ``tools/pretrain.py``."""
        return [
            *_given('--arch', self.arch),
            *_given('--dataset', self.dataset),
            *_given('--recipe', self.recipe),
            *_given('--epochs', self.epochs),
            *_given('--size', self.size),
            *_given('--seed', self.seed),
            *_given('--data-root', self.data_root),
            *_given('--work-dir', out / self.name),
        ]


@dataclass(frozen=True)
class Run:
    """A job: the training of a detector.

    Attributes:
        init: A weights file or ``none``; None for that of the config.
        pretraining: Job whose weights it starts from, instead of ``init``.
        label: Distinguishes it from a run of another block with the same settings.
    """

    arch: str
    detector: str
    dataset: str
    seed: int
    init: str | None = None
    frozen_stages: int | None = None
    schedule: str | None = None
    lr: float | None = None
    cfg_options: tuple[str, ...] = ()
    data_root: str | None = None
    amp: bool = False
    pretraining: Pretraining | None = None
    label: str | None = None

    @functools.cached_property
    def name(self) -> str:
        """Name of its folder."""
        start = f'from_{Path(self.init).stem}' if self.init not in (None, 'none') else None
        if self.init == 'none':
            start = 'random'
        if self.pretraining is not None:  # its name starts with the arch, which is redundant here
            start = f'from_{self.pretraining.name.removeprefix(_file_name(self.arch) + f"_{PRETRAINING}_")}'
        data = Path(self.data_root).name if self.dataset == CUSTOM and self.data_root else self.dataset
        frozen = None if self.frozen_stages is None else f'frozen{self.frozen_stages}'
        words = (self.arch, self.detector, data, start, frozen, self.label, f'seed{self.seed}')
        return _file_name('_'.join(filter(None, words)))

    @property
    def needs(self) -> str | None:
        """Job that must be finished before."""
        return None if self.pretraining is None else self.pretraining.name

    def start(self, out: Path) -> str | None:
        """Return its ``--init``."""
        return str(self.pretraining.weights(out)) if self.pretraining else self.init

    def options(self) -> list[str]:
        """Return its ``--cfg-options``."""
        frozen = (
            [] if self.frozen_stages is None else [f'model.backbone.frozen_stages={self.frozen_stages}']
        )
        return [*self.cfg_options, *frozen]

    def arguments(self, out: Path) -> list[str]:
        """Return the arguments of ``tools/train.py``."""
        return [
            *_given('--arch', self.arch),
            *_given('--detector', self.detector),
            *_given('--dataset', self.dataset),
            *_given('--schedule', self.schedule),
            *_given('--seed', self.seed),
            *_given('--init', self.start(out)),
            *_given('--lr', self.lr),
            *_given('--data-root', self.data_root),
            *(['--amp'] if self.amp else []),
            *_given('--work-dir', out / self.name),
            *(['--cfg-options', *self.options()] if self.options() else []),
        ]


Job = Pretraining | Run


def _given(flag: str, value: Any) -> list[str]:
    return [] if value is None else [flag, str(value)]


def _file_name(text: str) -> str:
    return re.sub(r'[^\w.+-]+', '-', text)


def read(path: Path) -> dict[str, Any]:
    """Read a grid file.

    Raises:
        UserError: It cannot be read, is not YAML, or is not a grid. The message names the place.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f'{path}: a grid is a mapping of {", ".join(NEEDED)} and options, or of blocks')
    jobs(content, str(path))
    return content


def dump(content: Mapping[str, Any]) -> str:
    """Return the text of a grid file with this content."""
    text: str = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    return text


def jobs(
    content: Mapping[str, Any], source: str, archs: Callable[[str], list[str]] | None = None
) -> list[Job]:
    """Return the jobs of a grid in the order in which they start: seed by seed, a pretraining before its
    first run.

    Args:
        content: Content from ``read``.
        source: Name of the source in messages.
        archs: Function that returns the names matching a pattern (``*``); None keeps patterns unchanged.

    Raises:
        UserError: A key is unknown, or a value is not valid.
    """
    check_keys(content, (*AXES, *OPTIONS, 'blocks'), source)
    blocks = content.get('blocks', [{}])
    if not isinstance(blocks, list) or not blocks:
        raise UserError(f'{source}: blocks: {blocks!r} is no list of mappings')
    shared = {key: value for key, value in content.items() if key != 'blocks'}
    found: dict[str, Job] = {}
    for number, block in enumerate(blocks):
        where = f'{source}: blocks[{number}]' if 'blocks' in content else source
        if not isinstance(block, dict):
            raise UserError(f'{where}: {block!r} is no mapping')
        check_keys(block, (*AXES, *OPTIONS), where)
        for job in _block({**shared, **block}, where, archs):
            for each in filter(None, (getattr(job, PRETRAINING, None), job)):
                if found.setdefault(each.name, each) != each:
                    raise UserError(
                        f'{where}: two unlike runs would share the folder {each.name}; put them into two '
                        'blocks and give one a name: that becomes part of its folders'
                    )
                if len(each.name.encode()) > LONGEST:
                    raise UserError(f'{where}: {each.name}: longer than the name of a folder can be')
    return list(found.values())


def _block(block: Mapping[str, Any], where: str, archs: Callable | None) -> Iterator[Run]:
    for key in NEEDED:
        if key not in block:
            raise UserError(f'{where}: missing {key!r}; a grid needs {", ".join(NEEDED)}')
    pretrain = _pretrain(block.get('pretrain'), f'{where}: pretrain')
    axes = {
        'archs': list_of(block, 'archs', str, where),
        'detectors': list_of(block, 'detectors', str, where, DETECTORS),
        'datasets': list_of(block, 'datasets', str, where, DATASET_NAMES),
        'seeds': list_of({'seeds': [0], **block}, 'seeds', int, where),
        'init': list_of(
            {'init': [PRETRAINING if pretrain else None], **block}, 'init', (str, type(None)), where
        ),
        'frozen_stages': list_of(
            {'frozen_stages': [None], **block}, 'frozen_stages', (int, type(None)), where
        ),
    }
    if archs is not None:
        axes['archs'] = [name for pattern in axes['archs'] for name in _expand(pattern, archs, where)]
    if (PRETRAINING in axes['init']) != bool(pretrain):
        raise UserError(f'{where}: init {PRETRAINING!r} and pretrain belong together; one is missing')
    roots = one(block, 'data_root', dict, where) or {}
    check_keys(roots, axes['datasets'], f'{where}: data_root')
    if CUSTOM in axes['datasets'] and CUSTOM not in roots:
        raise UserError(f'{where}: the data set {CUSTOM!r} needs its folder: data_root: {{{CUSTOM}: DIR}}')
    rest = {
        'schedule': one(block, 'schedule', str, where),
        'lr': one(block, 'lr', (int, float), where),
        'cfg_options': cfg_options(block.get('cfg_options'), f'{where}: cfg_options'),
        'amp': bool(one(block, 'amp', bool, where)),
        'label': one(block, 'name', str, where),
    }
    if rest['lr'] is not None and not 0 < rest['lr'] < float('inf'):
        raise UserError(f'{where}: lr: {rest["lr"]} is not positive')
    order = [axes[key] for key in ('seeds', 'archs', 'detectors', 'datasets', 'init', 'frozen_stages')]
    for seed, arch, detector, dataset, init, frozen in itertools.product(*order):
        start = None
        if init == PRETRAINING:
            start = Pretraining(
                arch=arch, **{**pretrain, **({'seed': seed} if pretrain['seed'] == EACH else {})}
            )
        yield Run(
            arch, detector, dataset, seed, frozen_stages=frozen, pretraining=start,
            init=None if start or init is None else init.replace('{arch}', _file_name(arch)),
            data_root=roots.get(dataset), **rest,
        )  # fmt: skip


def _pretrain(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or 'dataset' not in value:
        raise UserError(f'{where}: {value!r} is no mapping with a dataset')
    check_keys(value, PRETRAIN_KEYS, where)
    for key in ('dataset', 'recipe', 'data_root'):
        one(value, key, str, where)
    for key in ('epochs', 'size'):
        if (number := one(value, key, int, where)) is not None and number < 1:
            raise UserError(f'{where}: {key}: {number} is not positive')
    if value.get('seed') != EACH:
        one(value, 'seed', int, where)
    return {'seed': 0, **value}


def _expand(pattern: str, archs: Callable[[str], list[str]], where: str) -> list[str]:
    if not set(pattern) & set('*?['):
        return [pattern]
    names = archs(pattern)
    if not names:
        raise UserError(f'{where}: archs: no network fits {pattern!r}; tools/complexity.py lists them')
    return names


def of_axes(**given: Any) -> dict[str, Any]:
    """Return a grid from command-line options; None and empty lists are omitted."""
    return {
        key: value
        for key, value in given.items()
        if value is not None and value != {} and value is not False
    }


def describe(job: Job) -> dict[str, Any]:
    """Return a job as JSON for ``status.json``."""
    kind = 'run' if isinstance(job, Run) else PRETRAINING
    return {
        'kind': kind,
        **{key: value for key, value in dataclasses.asdict(job).items() if value is not None},
    }


def chosen(all_jobs: Sequence[Job], names: Sequence[str]) -> list[Job]:
    """Return the jobs of these names.

    Raises:
        UserError: There is no such job.
    """
    known = {job.name: job for job in all_jobs}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            hint = f'; did you mean {" or ".join(near)}?' if near else ''
            raise UserError(f'--only {name}: the grid has no such run{hint}')
    return [known[name] for name in names]
