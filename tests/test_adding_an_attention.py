"""The worked example of docs/adding_an_attention.md is built and passes the contract."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^## \d\. [^\n]*: `([^`]+)`\n+```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_three_files_of_the_guide_pass_the_contract(tmp_path: Path) -> None:
    for name in ("attentions", "conf", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = dict(BLOCK.findall((ROOT / "docs" / "adding_an_attention.md").read_text()))
    assert len(files) == 3
    for name, text in files.items():
        assert not (tmp_path / name).exists(), f"{name} is in the project now: choose another"
        (tmp_path / name).write_text(text)
    pytest_of_copy = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*pytest_of_copy, "-m", "not slow", "-k", "relu_linear", "tests/attentions"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", run.stdout)[0]) > 50
