"""The settings that define a run, by which sweeps and ``--resume`` recognize a finished one.

They are those of the resolved config, without the ones that ``compactdet.records.protocol_table`` names as
locations or without effect, with the network, the seed and the content of the initial weights. So a run
folder and its data may be moved.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compactdet.config.resolved import comparable, read_comparable_config
from compactdet.records.pretraining_types import PretrainingRecord
from compactdet.records.protocol_table import data_locations, run_settings
from compactdet.records.record_types import Record

if TYPE_CHECKING:
    from mmengine.config import Config

ABSENT = 'nothing'
NOT_THERE = 'a file that is not there yet'


@dataclass(frozen=True)
class RunIdentity:
    """Settings that decide whether a finished run is the one that is asked for.

    Attributes:
        arch: Name of the network.
        seed: Seed.
        init: SHA-256 of the initial weights; `NOT_THERE` if the file does not exist yet, None for none.
        config: Resolved config, as ``comparable`` returns it.
    """

    arch: str
    seed: int
    init: str | None
    config: Mapping[str, Any]

    def settings(self) -> dict[str, Any]:
        """Return the fields, the config reduced to the settings that define a run."""
        return {
            'arch': self.arch,
            'seed': self.seed,
            'init': self.init,
            'config': run_settings(self.config),
        }


def identity_of(cfg: Config, seed: int) -> RunIdentity:
    """Return the identity of the run of a resolved config.

    Raises:
        WeightsError: The initial weights cannot be read.
    """
    from backbones.weights import file_sha256  # here: loads PyTorch

    backbone = cfg.model.backbone
    init = backbone.get('init') or (backbone.get('init_cfg') or {}).get('checkpoint')
    if init is not None:
        init = file_sha256(init) if Path(init).is_file() else NOT_THERE
    return RunIdentity(backbone.arch, seed, init, comparable(cfg.to_dict()))


def stated_identity(record: Record | PretrainingRecord, name: str) -> RunIdentity:
    """Return the identity of the run of a record.

    Args:
        record: The record.
        name: Its name in messages.

    Raises:
        UserError: Its config cannot be read.
    """
    config = read_comparable_config(record['config']['text'], f'{name}: config.text of its record')
    return RunIdentity(record['arch'], record['seed'], record['init']['sha256'], config)


def has_other_locations(one: RunIdentity, other: RunIdentity) -> bool:
    """Return True if the data of two runs are in different places."""
    return data_locations(one.config) != data_locations(other.config)


def difference(wanted: RunIdentity, stated: RunIdentity) -> str | None:
    """Return in words the first difference of two identities, or None. Locations are not compared."""
    for place, one, other in _differences(wanted.settings(), stated.settings(), ''):
        if place == 'config.load_from' and ABSENT in (one, other):
            continue  # excluded from the record of a resumed run
        return f'its {place.removeprefix("config.")} is {_short(other)}, not {_short(one)}'
    return None


def _differences(one: Any, other: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            inner = f'{place}.{key}' if place else str(key)
            yield from _differences(one.get(key, ABSENT), other.get(key, ABSENT), inner)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f'{place}.{index}')
    elif one != other or type(one) is not type(other):
        yield place, one, other


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f'{text[:57]}...'
