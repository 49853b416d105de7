"""Strict reading of configs: an error for a misspelled key, which MMEngine would merge silently.

The allowed keys come from three places: the signature of the registered class for a dict with a ``type``,
MMEngine's ``Runner`` for the top level, and the tables of ``compactdet.config.allowed_keys`` for the other
dicts.
"""

import ast
import contextlib
import copy
import difflib
import functools
import importlib
import inspect
import itertools
import os
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner

import compactdet.mmdetection  # noqa: F401  provides mmcv's operators, then imports MMDetection
from compactdet.config.allowed_keys import (
    ALSO_READ,
    BUILDER_KEYS,
    DEFAULT_TYPES,
    DERIVED_FROM,
    DETECTOR_PARTS,
    OTHER_LIBRARIES,
    PLAIN,
    VARIABLES,
)
from compactdet.config.choice import DETECTORS
from compactdet.config.detector import detector_name, head_classes
from compactdet.config.resolved import RENAMED_MODULES
from compactdet.errors import UserError, one_line

T = TypeVar('T')
CONFIGS = Path(__file__).parents[3] / 'det_configs'


def load(path: Path | str) -> Config:
    """Read a config file and check its keys.

    Raises:
        UserError: See ``read``; or the config has a key that is not used.
    """
    cfg = read(Path(path))
    if Path(path).suffix == '.py':
        _check_variables(Path(path))
    check_keys(cfg)
    return cfg


def read(path: Path) -> Config:
    """Read a config file or a base config without checking its keys.

    Raises:
        UserError: The file is missing, is not valid Python or fails when it is run (an unknown network, a
            failed import). The message names the file and, if known, the line.
    """
    if not path.is_file():
        raise UserError(f'{path}: no such config file{_near_files(path)}')
    try:
        return Config.fromfile(path)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(_syntax_error(path) or f'{path}: {error}') from error
    except Exception as error:  # a config is a program that can raise anything
        raise UserError(_run_error(path, error)) from error


def _near_files(path: Path) -> str:
    """Return a question after config files with similar names, here, in their folder and in det_configs."""
    configs = [*path.parent.glob('*.py'), *CONFIGS.glob('*.py'), *CONFIGS.glob('pretrain/*.py')]
    near = difflib.get_close_matches(path.stem, {file.stem for file in configs}, n=2)
    found = {stem: next(file for file in configs if file.stem == stem) for stem in near}
    return f'; did you mean {" or ".join(map(os.path.relpath, found.values()))}?' if found else ''


def resolved_text(cfg: Config) -> str:
    """Return the config as Python text with every base and override resolved, for the record.

    The text excludes the run folder and the launcher, so that a repeated run has the same text.
    """
    resolved = copy.deepcopy(cfg)
    # With `resume`, `load_from` is the training state; otherwise it is the initial detector.
    has_initial_detector = cfg.get('load_from') and not cfg.get('resume')
    for key in ('work_dir', 'launcher', 'resume', *([] if has_initial_detector else ['load_from'])):
        resolved.pop(key, None)
    return resolved.pretty_text


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge ``--cfg-options`` into the config, in place.

    Raises:
        UserError: The key of an option is not used, its value was already copied, or other values were
            derived from it. The config is then unchanged.
    """
    leaves = dict(_leaves(options))
    for key in leaves:
        top = key.split('.')[0]
        if top in VARIABLES:
            raise UserError(f'--cfg-options {key}: {_no_effect(top)}')
        if any(fnmatchcase(key, p) or fnmatchcase(key, f'{p}.*') for p in DERIVED_FROM):
            raise UserError(_derived_from(cfg, key, leaves[key]))
    merged = copy.deepcopy(cfg)
    for key, value in options.items():
        try:
            merged.merge_from_dict({key: copy.deepcopy(value)})
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f'--cfg-options {key}: {one_line(error)}') from error
    _raise_first(_problems(merged), '--cfg-options')
    for key in leaves:
        _check_new_key(cfg, key)
    cfg.merge_from_dict(copy.deepcopy(dict(options)))


def check_keys(cfg: Config) -> None:
    """Raise UserError if a config has a key that is not used.

    Raises:
        UserError: The message names the file, the key and similar keys.
    """
    _raise_first(_problems(cfg), cfg.filename or 'config')


def _no_effect(name: str) -> str:
    """Return why setting a variable of a config file has no effect."""
    return f'{name} is a variable of its config file, and setting it has no effect; {VARIABLES[name]}'


def _check_variables(path: Path) -> None:
    """Raise UserError if a config sets a variable of its base config and does not use it itself."""
    names = [n for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.Name)]
    is_set = {name.id: name.lineno for name in names if isinstance(name.ctx, ast.Store)}
    is_read = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    for name, line in is_set.items():
        if '_base_' in is_set and name in VARIABLES and name not in is_read:
            raise UserError(f'{path}, line {line}: {_no_effect(name)}')


def _raise_first(problems: Iterator[str], source: str) -> None:
    for problem in problems:
        raise UserError(f'{source}: {problem}')


def _problems(cfg: Config) -> Iterator[str]:
    """Yield a message for each key that is not used."""
    content = cfg.to_dict()
    plain = _tables(content)
    runner = inspect.signature(Runner.__init__).parameters
    known = {*runner, *ALSO_READ, *VARIABLES} - {'self', 'cfg'}
    yield from _unknown('the config', content, known)
    for key, value in content.items():
        yield from _walk(value, key, plain)


def _tables(content: Mapping[str, Any]) -> dict[str, Collection[str]]:
    """Return the allowed keys of dicts without a ``type``, by pattern of their place."""
    model = content.get('model')
    detector = model.get('type') if isinstance(model, dict) else None
    return {**PLAIN, **DETECTOR_PARTS.get(str(detector).split('.')[-1], {})}


def _walk(value: Any, place: str, plain: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield a message for each key in a value that is not used.

    Args:
        value: Part of the config.
        place: Its dotted path.
        plain: Result of ``_tables``.
    """
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk(item, f'{place}.{index}', plain)
    if not isinstance(value, dict):
        return
    kind = value.get('type', _first(DEFAULT_TYPES, place))
    table = _first(plain, place)
    if table is not None:
        yield from _unknown(place, value, table)
    elif kind is not None:
        yield from _check_typed(value, kind, place)
    others = OTHER_LIBRARIES.get(str(kind).rpartition('.')[2], ())
    for key, item in value.items():
        if key not in others:
            yield from _walk(item, f'{place}.{key}', plain)


def _first(table: Mapping[str, T], place: str) -> T | None:
    """Return the value of the first pattern that matches a place, or None."""
    return next((value for pattern, value in table.items() if fnmatchcase(place, pattern)), None)


def _unknown(owner: str, value: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    for key in value:
        if key not in known:
            yield f'{owner} has no key {key!r}; {_suggestion(key, known)}'


def _suggestion(word: str, known: Collection[str], otherwise: str | None = None) -> str:
    """Return a question with the known names similar to a word; without one, ``otherwise`` or all names."""
    near = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    if near:
        return f'did you mean {" or ".join(near)}?'
    if otherwise:
        return otherwise
    return f'known: {", ".join(sorted(known))}' if len(known) <= 20 else 'it would have no effect'


def _check_typed(value: Mapping[str, Any], kind: Any, place: str) -> Iterator[str]:
    """Yield a message for each key of a dict with a ``type`` that its class does not take."""
    owners = _owners(kind)
    if owners is None:
        return
    if not owners:
        names: set[str] = set().union(*_sources())
        hint = _suggestion(kind, names, 'name the module of your own class in custom_imports')
        yield f'{place}: no class {kind!r} is registered; {hint}'
        return
    known = {key for pattern, keys in BUILDER_KEYS.items() if fnmatchcase(place, pattern) for key in keys}
    found = [parameters(owner) for owner in owners]
    known = known.union(*(names for names, _ in found))
    takes_any = any(open_ended for _, open_ended in found)
    for problem in _unknown(f'{place} ({getattr(kind, "__name__", kind)})', value, known):
        # A class with **kwargs takes any key; only a key similar to a known one is then an error.
        if not takes_any or 'did you mean' in problem:
            yield problem


def parameters(owner: Callable[..., Any]) -> tuple[set[str], bool]:
    """Return the keyword parameters of a function or a class.

    Those of a class include those of its base classes if its ``__init__`` takes ``**kwargs``; a class of
    several base classes may pass them to any of these.

    Returns:
        Their names, and True if ``**kwargs`` takes all other keywords.
    """
    if not inspect.isclass(owner):
        signatures = [inspect.signature(owner)]
    else:
        owns_init = [c for c in owner.__mro__ if '__init__' in vars(c) and c is not object]
        signatures = [inspect.signature(vars(c)['__init__']) for c in owns_init]
    several = inspect.isclass(owner) and len(owner.__bases__) > 1
    names: set[str] = set()
    open_ended = bool(signatures)
    for number, signature in enumerate(signatures):
        given = signature.parameters.values()
        names |= {p.name for p in given if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD for p in given):
            open_ended = False
            if number == 0 or not several:
                break
    return names - {'self'}, open_ended


def _owners(kind: Any) -> list[Callable[..., Any]] | None:
    """Return the classes with a name in any registry; None if the registries of its scope are not known."""
    if not isinstance(kind, str):
        return [kind] if callable(kind) else []
    scope, _, name = kind.rpartition('.')
    if scope == 'mmpretrain':
        sources = _registries('mmpretrain')
    elif scope in ('', 'mmdet', 'mmengine', 'mmcv'):
        sources = _sources()
    else:
        return None
    return [source[name] for source in sources if callable(source.get(name))]


@functools.cache
def _sources() -> list[Mapping[str, Any]]:
    """Return tables of all registered classes by name, and of mmcv's operators (RoI layers, NMS)."""
    import mmcv.ops  # here: compactdet.mmdetection must be imported first
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    return [vars(mmcv.ops), *_registries('mmdet'), *_registries('mmengine')]


def _registries(package: str) -> list[Mapping[str, Any]]:
    """Return tables of the imported classes in a package's registries by name."""
    found = vars(importlib.import_module(f'{package}.registry')).values()
    return [registry.module_dict for registry in found if isinstance(registry, Registry)]


def _leaves(options: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each option; a dict stands for its items."""
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def _check_new_key(cfg: Config, key: str) -> None:
    """Raise UserError if an option adds a key to a dict whose allowed keys are unknown."""
    content = cfg.to_dict()
    plain, value, place = _tables(content), content, ''
    for part in key.split('.'):
        if isinstance(value, list):
            value = value[int(part)]
        elif part in value:
            value = value[part]
        else:
            known = 'type' in value or _first({**DEFAULT_TYPES, **plain}, place) is not None
            if place and not known:
                hint = _suggestion(part, value.keys(), 'add the key in a config file if it is intended')
                raise UserError(f'--cfg-options {key}: {place} has no key {part!r}; {hint}')
            return
        place = f'{place}.{part}' if place else part
        if not isinstance(value, dict | list):
            return


def _derived_from(cfg: Config, key: str, value: Any) -> str:
    """Return the error message for an option from which other values are derived, with a leaf config
    that has the intended effect.
    """
    model = cfg.get('model') or {}
    name = detector_name(model) if model.get('type') else ''
    wire = name if name in DETECTORS else 'frcnn_c4'
    arch = value if key.endswith('.arch') else (model.get('backbone') or {}).get('arch', 'ARCH')
    classes = value if key.endswith('.num_classes') else [*head_classes(model), 'N'][0]
    reason = f'--cfg-options {key}: other values of the config were derived from it; '
    if cfg.filename and not Path(cfg.filename).is_file():  # composed in memory
        return f'{reason}choose them with --arch, --detector and --dataset'
    return (
        f"{reason}write a config with _base_ = ['{cfg.filename or 'BASE.py'}'] and below it "
        f'`from backbones.wiring import {wire}` and '
        f"`model = {wire}('{arch}', num_classes={classes})`"
    )


def _config_files(path: Path) -> Iterator[Path]:
    """Yield a config file, then its base configs; without those that MMEngine finds in a package."""
    if path.is_file():
        yield path
        for base in Config._get_base_files(str(path)):
            yield from _config_files(path.parent / base)


def _syntax_error(path: Path) -> str:
    """Return where a config or one of its bases has a syntax error; an empty text if there is none."""
    for file in _config_files(path):
        try:
            ast.parse(file.read_bytes())
        except SyntaxError as error:
            return f'{file}, line {error.lineno}: syntax error: {error.msg}'
    return ''


def _renamed_modules(path: Path) -> str:
    """Return where a config or one of its bases names renamed modules, and their new names; an empty text
    if there are none.
    """
    for file in _config_files(path):
        lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
        found = [(n, name) for n, line in enumerate(lines, 1) for name in re.findall(r'\bbench\.\w+', line)]
        new = {name: RENAMED_MODULES[name] for _, name in found if name in RENAMED_MODULES}
        if new:
            line = next(n for n, name in found if name in new)
            names = ', '.join(f'{current} for {old}' for old, current in new.items())
            return f'{file}, line {line}: the package bench was renamed to compactdet; write {names}'
    return ''


def _run_error(path: Path, error: BaseException) -> str:
    """Return the line of the config that failed, the reason and, if known, the remedy."""
    calls = itertools.pairwise(traceback.extract_tb(error.__traceback__))
    lines = [f for by, f in calls if by.name == '_file2dict' and f.name == '<module>']
    where = f'{lines[-1].filename}, line {lines[-1].lineno}' if lines else str(path)
    hint = ''
    if isinstance(error, ImportError):
        if renamed := _renamed_modules(path):
            return renamed
        while isinstance(error.__cause__ or error.__context__, ImportError):
            error = error.__cause__ or error.__context__  # type: ignore[assignment]
        hint = '; install what is missing (backbones and compactdet: pip install -e . in the checkout)'
    with contextlib.suppress(Exception):
        if not lines and Config._is_lazy_import(str(path)):
            hint = '; move imports below `_base_`: above it they switch MMEngine to lazy configs'
    return f'{where}: {one_line(error)}{hint}'
