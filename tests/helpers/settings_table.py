"""The tables of ``det_configs/settings.md``: where each setting of a paper's row comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmdet
import yaml
from mmengine.config import Config

from compactdet.config import strict

CONFIGS = Path(__file__).parents[2] / 'det_configs'
MMDETECTION = Path(mmdet.__file__).parent / '.mim' / 'configs'
HEAD = ('setting', 'here', 'paper', 'code', 'MMDetection', 'differs because')


@dataclass(frozen=True)
class Setting:
    """One line of a table.

    Attributes:
        name: The setting.
        here: Its value in the leaf configs; a list of the values if they differ.
        paper: (value, section), or None if the paper does not state it.
        code: (value,) in the code that the rig follows, or None if it has no such setting.
        mmdetection: Its value in MMDetection's config of the same detector.
        differs: Reason of a difference from paper or code; empty if there is none.
    """

    name: str
    here: Any
    paper: tuple[Any, str] | None
    code: tuple[Any] | None
    mmdetection: Any
    differs: str

    @property
    def is_followed(self) -> bool:
        """Whether the value is that of the paper, or else that of the code."""
        source = self.paper or self.code
        return source is None or source[0] == self.here


@dataclass(frozen=True)
class Rig:
    """The detector of a paper's table.

    Attributes:
        title: Paper, table, detector and data.
        code: The code that the other settings follow.
        leaves: The leaf configs.
        settings: The lines.
    """

    title: str
    code: str
    leaves: list[Path]
    settings: list[Setting]


def value_of(cfg: Any, key: str) -> Any:
    """Return the value at a dotted key; an item of a list by index or type. None if there is none."""
    special = {'frozen': _frozen, 'bn': _bn, 'subnet_stride': _subnet_stride}.get(key)
    if special:
        return special(cfg.model)
    value: Any = cfg
    for name in key.split('.'):
        if isinstance(value, list | tuple) and not name.isdigit():
            value = next((item for item in value if item['type'].rpartition('.')[2] == name), None)
        elif isinstance(value, list | tuple):
            value = value[int(name)]
        else:
            value = value.get(name)
        if value is None:
            return None
    return _plain(value)


def _plain(value: Any) -> Any:
    """Return a value in the types of YAML: tuples become lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _frozen(model: Any) -> int:
    """Return the stride up to which the network is frozen; ResNet's first stage is at stride 4."""
    if model.backbone.type == 'ResNet':
        return 4 * model.backbone.frozen_stages
    return model.backbone.get('frozen_stride', 0)


def _bn(model: Any) -> str:
    """Return the BN policy; MMDetection states it by two options."""
    backbone = model.backbone
    if backbone.type != 'ResNet':
        return backbone.bn_policy
    return 'train' if not backbone.norm_eval else 'eval' if backbone.norm_cfg.requires_grad else 'frozen'


def _subnet_stride(model: Any) -> int:
    return model.roi_head.shared_head.get('stride', 1)


def rigs() -> Iterator[Rig]:
    """Yield every rig of ``det_configs/settings.yaml``."""
    content = yaml.safe_load((CONFIGS / 'settings.yaml').read_text(encoding='utf-8'))
    for rig in content['rigs']:
        leaves = sorted(path for pattern in rig['leaves'] for path in CONFIGS.glob(pattern))
        configs = [strict.load(path) for path in leaves]
        theirs = Config.fromfile(MMDETECTION / rig['mmdetection'])
        follows_mmdetection = rig['code'].startswith('MMDetection')
        settings = []
        for row in [*rig['rows'], *rig['common']]:
            found = [value_of(cfg, row['key']) for cfg in (*configs, theirs)]
            *ours, mmdetection = (row.get('default') if value is None else value for value in found)
            mmdetection = row.get('mmdetection', mmdetection)
            values = [value for i, value in enumerate(ours) if value not in ours[:i]]
            code = (mmdetection,) if follows_mmdetection else (row['code'],) if 'code' in row else None
            settings.append(
                Setting(
                    row['setting'],
                    values[0] if len(values) == 1 else sorted(values, key=str),
                    (row['paper'], row['place']) if 'paper' in row else None,
                    code,
                    mmdetection,
                    row.get('differs', ''),
                )
            )
        yield Rig(rig['title'], rig['code'], leaves, settings)


def text_of(value: Any) -> str:
    """Return a value as text for a cell."""
    if value is None:
        return 'none'
    if isinstance(value, float):
        return f'{value:.4g}'
    if isinstance(value, list):
        return ', '.join(
            f'({text_of(item)})' if isinstance(item, list) else text_of(item) for item in value
        )
    if isinstance(value, dict):
        return ', '.join(f'{key} {text_of(item)}' for key, item in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def markdown(all_rigs: Iterable[Rig]) -> str:
    """Return the tables of rigs."""
    parts = []
    for rig in all_rigs:
        leaves = ', '.join(f'[{path.name}]({path.name})' for path in rig.leaves)
        lines = [HEAD, ('---',) * len(HEAD)]
        for one in rig.settings:
            paper = f'{text_of(one.paper[0])} ({one.paper[1]})' if one.paper else '-'
            code = text_of(one.code[0]) if one.code else '-'
            cells = (one.name, text_of(one.here), paper, code, text_of(one.mmdetection), one.differs)
            lines.append(cells)
        table = ''.join('| ' + ' | '.join(line) + ' |\n' for line in lines)
        parts.append(f'\n## {rig.title}\n\nConfigs: {leaves}\n\nCode: {rig.code}\n\n{table}')
    return ''.join(parts) + '\n'
