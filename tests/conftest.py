"""Where the golden values are: numbers that the published scripts' functions gave (random inputs, CPU, float32)."""

from pathlib import Path

import pytest

from common import cli

GOLDEN = Path(__file__).parent / "golden"
LARGE_GOLDEN = Path(__file__).parent.parent / "../shared/reference/golden"

# Folders with checkpoints, forward values and masks, and the depth of the networks in them (widen_factor 2).
GOLDEN_NETWORKS = [
    pytest.param(GOLDEN, 10, id="WRN-10-2"),
    pytest.param(LARGE_GOLDEN, 16, id="WRN-16-2",
                 marks=pytest.mark.skipif(not LARGE_GOLDEN.is_dir(), reason="no ../shared/reference/golden here")),
]


@pytest.fixture(autouse=True)
def quiet_logger():
    """Scripts run inside the test process leave no open log behind."""
    yield
    for handler in list(cli.logger.handlers):
        cli.logger.removeHandler(handler)
        handler.close()
