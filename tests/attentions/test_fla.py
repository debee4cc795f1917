"""The back end `fla`: the same numbers as torch's, and refused where it cannot run."""

import os
import subprocess
import sys

import pytest
import torch

from attentions import registry
from attentions.base import Pattern, Unavailable
from tests.attentions.claims import build, inputs
from tests.attentions.interpreted import differences

WITH_FLA = [
    name
    for name in registry.names()
    if "fla" in registry.mechanism(registry.load(name)["_target_"]).backends
]
each_with_fla = pytest.mark.parametrize("name", WITH_FLA)


@pytest.mark.slow
@pytest.mark.parametrize("names", [WITH_FLA[i::4] for i in range(4)], ids=" ".join)
def test_fla_computes_what_torch_does(names: list[str]) -> None:
    pytest.importorskip("fla")
    # Outputs and gradients in every pattern that each claims, on a padded batch. Several in one
    # process, whose start takes a third of a mechanism's time.
    done = subprocess.run(
        [sys.executable, "-m", "tests.attentions.interpreted", *names],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@each_with_fla
def test_fla_computes_on_cuda_what_torch_does(name: str) -> None:
    pytest.importorskip("fla")
    # TF32 rounds each factor by 5e-4 at most.
    for pattern in registry.mechanism(registry.load(name)["_target_"]).backends["fla"]:
        assert not list(differences(name, pattern, device="cuda", tolerance=1e-2))


@each_with_fla
def test_fla_refuses_the_cpu(name: str) -> None:
    pytest.importorskip("fla")
    attention = build(name, Pattern.CAUSAL_SELF, backend="fla")
    query, _ = inputs(Pattern.CAUSAL_SELF, 5)
    with pytest.raises(Unavailable, match="backend fla runs on cuda, and the inputs are on cpu"):
        attention(query)


@each_with_fla
def test_fla_is_refused_in_other_patterns(name: str) -> None:
    cls = registry.mechanism(registry.load(name)["_target_"])
    without = cls.patterns - cls.backends["fla"]
    for pattern in without:
        with pytest.raises(ValueError, match=f"backend must be torch in {pattern}, got 'fla'"):
            build(name, pattern, backend="fla")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attentions.base.find_spec", lambda _: None)
    with pytest.raises(Unavailable, match=r"backend fla needs .* pip install 'attnbench\[fla\]'"):
        build("linear_elu", Pattern.CAUSAL_SELF, backend="fla")
