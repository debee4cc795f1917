import subprocess
import sys

import pytest

from runners import list as listing


def test_it_names_every_mechanism_task_and_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert listing.main() == 0
    told = capsys.readouterr().out
    for name in (
        "softmax",
        "local_window",
        "mqar/tiny",
        "forecasting/ecl_m",
        "+experiment=quickstart/quality",
    ):
        assert name in told
    assert "zoology/figure2\n" in told
    assert "zoology/size" not in told  # a part of figure2


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['attnbench', '--help']; from runners import cli; cli.main();"
        "assert not {'torch', 'hydra', 'pandas'} & sys.modules.keys(), 'heavy imports'"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "attnbench train" in told.stdout
