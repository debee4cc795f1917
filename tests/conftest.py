"""Fixtures that every test can use."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

if "HF_HOME_OF_TESTS" not in os.environ:
    # What is made is kept once for all workers, which inherit this, and not in the user's cache.
    os.environ["HF_HOME_OF_TESTS"] = os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="attnbench.")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

# Tests work on small tensors, and those of pytest-xdist share the cores: waiting threads cost more
# than they bring, seven times the whole suite of the attentions on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Fix the global generator: a test that fails, fails again."""
    torch.manual_seed(0)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data samples, which the project does not ship."""
    folder = Path(os.environ.get("ATTNBENCH_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data samples at {folder}; set ATTNBENCH_DATA")
    return folder
