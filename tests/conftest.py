from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of real data and weights beside the checkout; absent on a fresh machine."""
    folder = Path(__file__).parents[2] / 'shared'
    if not folder.is_dir():
        pytest.skip('needs ../shared')
    return folder
