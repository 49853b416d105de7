"""`--precision` in a config."""

import pytest
import torch
from mmengine.config import Config

from compactdet.config.options import set_precision


@pytest.mark.parametrize(('gpu', 'env_cfg'), [(False, {}), (True, {'tf32': False})])
def test_fp32_turns_tf32_off_where_there_is_any(
    gpu: bool, env_cfg: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    cfg = Config({'optim_wrapper': {'type': 'OptimWrapper'}, 'env_cfg': {}})
    set_precision(cfg, 'fp32')
    assert dict(cfg.env_cfg) == env_cfg
    assert cfg.optim_wrapper.type == 'OptimWrapper'
