"""Logging of a training to TensorBoard, Weights & Biases or MLflow, through MMEngine's backends."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compactdet.errors import UserError

if TYPE_CHECKING:  # --help starts without MMEngine
    from mmengine.config import Config

# Name of the service, which is also that of its package: MMEngine's backend.
SERVICES = {
    'tensorboard': 'TensorboardVisBackend',
    'wandb': 'WandbVisBackend',
    'mlflow': 'MLflowVisBackend',
}


def set_log_services(cfg: Config, names: Sequence[str]) -> None:
    """Add services to which a training also logs to a config, in place.

    Raises:
        UserError: The package of a service is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f'--log {name} needs the package {name}; run `python -m pip install {name}`')
    visualizer = dict(cfg.get('visualizer') or {'type': 'Visualizer'})
    backends = list(visualizer.get('vis_backends') or [{'type': 'LocalVisBackend'}])
    present = {backend['type'] for backend in backends}
    backends += [{'type': SERVICES[name]} for name in names if SERVICES[name] not in present]
    cfg.visualizer = {**visualizer, 'vis_backends': backends}
