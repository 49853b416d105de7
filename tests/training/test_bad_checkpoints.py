"""Invalid detector checkpoints give a one-line error, and no code in them is executed."""

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
    """An object whose pickle executes a command on loading."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def without(checkpoint: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in checkpoint.items() if key not in keys}


# Tools that get the checkpoint, the change of a valid checkpoint's content, and text of the error.
BAD_CHECKPOINTS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    'code': (
        'train test',
        lambda good: dict(good, meta=Code('touch executed')),
        'contains code (posix.system), which was not executed',
    ),
    'no dict': ('train', lambda good: [1, 2], 'is not a detector checkpoint: it has no state_dict'),
    'meta': (
        'test',
        lambda good: dict(good, meta='x'),
        'is not a detector checkpoint: its meta is not a dict',
    ),
    'no tensors': (
        'train',
        lambda good: dict(good, state_dict={'a': 1}),
        'is not a detector checkpoint: its state_dict contains more than tensors',
    ),
    'weights only': (
        'train',
        lambda good: {'state_dict': good['state_dict']},
        'it has no optimizer, message_hub, meta.epoch, meta.iter; resume from a checkpoint that',
    ),
    'best': (
        'train',
        lambda good: without(good, 'optimizer'),
        'is not a training state: it has no optimizer',
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


def arguments(tool: str, config: Path, checkpoint: Path) -> list[object]:
    """Return the arguments that give a tool a checkpoint."""
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
    status, _, err = run_tool(tool, *arguments(tool, tiny_config, bad), '--work-dir', tmp_path / 'work')
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
    assert f'cannot read {bad}: No such file' in refused(tool, *arguments(tool, tiny_config, bad))
    data = (tiny_run / 'epoch_1.pth').read_bytes()
    bad.write_bytes(data[: len(data) // 2])
    assert f'{bad} is truncated or ' in refused(tool, *arguments(tool, tiny_config, bad))


def test_a_checkpoint_of_another_arch(
    refused: Callable, tiny_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    config = Path(shutil.copy(tiny_config, tmp_path / 'other.py'))
    config.write_text(config.read_text().replace('menet_108_8x1_g3', 'menet_128_8x1_g4'))
    line = refused('train', *arguments('train', config, tiny_run / 'epoch_1.pth'), made=True)
    assert line.startswith(f'{tiny_run}/epoch_1.pth does not fit this config (')
    assert line.endswith('Is it from another arch or another number of classes?')


def test_config_text_in_a_checkpoint_is_not_executed(
    run_tool: Callable,
    tiny_run: Path,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MMEngine's runner would execute it on a resume."""
    monkeypatch.chdir(tmp_path)
    malicious = load_pickle_safely(tiny_run / 'epoch_1.pth')
    command = "import os\nos.system('touch executed')\n"
    malicious['meta'].update(config=command, cfg=command)
    torch.save(malicious, tmp_path / 'malicious.pth')
    options = ['--work-dir', 'work', '--resume', 'malicious.pth', '--seed', '3']
    options += ['--cfg-options', 'train_cfg.max_epochs=1']
    status, _, err = run_tool('train', tiny_config, *options)
    assert (status, err) == (0, '')
    assert (tmp_path / 'work/record.json').exists()
    assert not (tmp_path / 'executed').exists()
