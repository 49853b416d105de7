"""The log file of a training, whatever the locale."""

import logging
from pathlib import Path

import pytest
from mmengine.logging import MMLogger

from compactdet.training.runner import SafeRunner


def test_the_log_file_is_utf8_in_any_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ascii_handler(*args: object, **kwargs: object) -> MMLogger:
        logger = MMLogger('ascii', logger_name='ascii')
        logger.handlers = [logging.FileHandler(tmp_path / 'log', encoding='ascii')]
        return logger

    monkeypatch.setattr('mmengine.runner.Runner.build_logger', ascii_handler)
    logger = SafeRunner.build_logger(object.__new__(SafeRunner))
    logger.warning('Größe ±1')
    logger.handlers[0].close()
    assert 'Größe ±1' in (tmp_path / 'log').read_text('utf-8')
