"""A detector's checkpoint that cannot serve gives one clear line, and nothing in it is executed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.weights import load_pickle_safely

pytestmark = pytest.mark.usefixtures('plain_config_text')


class Code:
    """Pickled, it is a command that is executed on loading."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def without(checkpoint: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in checkpoint.items() if key not in keys}


# What is stored in place of a good checkpoint's content, and who is handed it.
BAD_CHECKPOINTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    'code': (
        'train test',
        lambda good: dict(good, meta=Code('touch executed')),
        'contains code (posix.system), which was not executed',
    ),
    'no dict': ('train', lambda good: [1, 2], 'is no detector checkpoint: it holds no state_dict'),
    'meta': ('test', lambda good: dict(good, meta='x'), 'is no detector checkpoint: its meta is no dict'),
    'no tensors': (
        'train',
        lambda good: dict(good, state_dict={'a': 1}),
        'is no detector checkpoint: its state_dict holds more than tensors',
    ),
    'weights only': (
        'train',
        lambda good: {'state_dict': good['state_dict']},
        'it holds no optimizer, message_hub, meta.epoch, meta.iter; give one that the training saved',
    ),
    'best': (
        'train',
        lambda good: without(good, 'optimizer'),
        'is no checkpoint to go on from: it holds no optimizer',
    ),
    'one entry less': (
        'test',
        lambda good: dict(good, state_dict=without(good['state_dict'], 'rpn_head.rpn_cls.bias')),
        'does not fit this config (1 differences): rpn_head.rpn_cls.bias is missing',
    ),
    'other input': (
        'test',
        lambda good: dict(good, meta=dict(good['meta'], inputs='upside down')),
        'was trained with upside down, but this config gives',
    ),
}
CASES = [
    pytest.param(tool, change, words, id=f'{tool} {name}')
    for name, (tools, change, words) in BAD_CHECKPOINTS.items()
    for tool in tools.split()
]


def use(tool: str, config: Path, checkpoint: Path) -> list[object]:
    """The arguments that hand a tool a checkpoint."""
    return [config, '--resume', checkpoint] if tool == 'train' else [config, checkpoint]


@pytest.mark.parametrize(('tool', 'change', 'words'), CASES)
def test_bad_checkpoints(
    run_tool: Callable,
    tiny_run: Path,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tool: str,
    change: Callable,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / 'bad.pth'
    torch.save(change(load_pickle_safely(tiny_run / 'epoch_1.pth')), bad)
    status, _, err = run_tool(tool, *use(tool, tiny_config, bad), '--work-dir', tmp_path / 'work')
    assert status == 1
    assert err.startswith(f'error: {bad} ')
    assert words in err
    assert err.count('\n') == 1
    assert not (tmp_path / 'executed').exists()
    assert not (tmp_path / 'work/record.json').exists()


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_a_truncated_or_absent_checkpoint(
    refused: Callable, tool: str, tiny_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    bad = tmp_path / 'bad.pth'
    assert f'cannot read {bad}: No such file' in refused(tool, *use(tool, tiny_config, bad))
    data = (tiny_run / 'epoch_1.pth').read_bytes()
    bad.write_bytes(data[: len(data) // 2])
    assert f'{bad} is truncated or no PyTorch file' in refused(tool, *use(tool, tiny_config, bad))


def test_a_checkpoint_of_another_arch(
    refused: Callable, tiny_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    config = Path(shutil.copy(tiny_config, tmp_path / 'other.py'))
    config.write_text(config.read_text().replace('menet_108_8x1_g3', 'menet_128_8x1_g4'))
    line = refused('train', *use('train', config, tiny_run / 'epoch_1.pth'), made=True)
    assert line.startswith(f'{tiny_run}/epoch_1.pth does not fit this config (')
    assert line.endswith('Is it from another arch or another number of classes?')


def test_config_text_in_a_checkpoint_is_not_executed(
    run_tool: Callable,
    tiny_run: Path,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MMEngine's runner would; so there is no error here, and no command."""
    monkeypatch.chdir(tmp_path)
    sly = load_pickle_safely(tiny_run / 'epoch_1.pth')
    command = "import os\nos.system('touch executed')\n"
    sly['meta'].update(config=command, cfg=command)
    torch.save(sly, tmp_path / 'sly.pth')
    options = ['--work-dir', 'work', '--resume', 'sly.pth', '--seed', '3']
    options += ['--cfg-options', 'train_cfg.max_epochs=1']
    status, _, err = run_tool('train', tiny_config, *options)
    assert (status, err) == (0, '')
    assert (tmp_path / 'work/record.json').exists()
    assert not (tmp_path / 'executed').exists()
