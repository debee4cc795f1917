"""Every shipped claim holds; every flaw is found, by the checks of its name and by no others."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from attentions import registry
from attentions.base import Attention, Pattern, UnsupportedPattern
from attentions.linear.linear_elu import LinearAttention
from attentions.softmax.softmax import SoftmaxAttention
from runners.checks.subject import Finding, Subject, errors
from runners.run import Run
from runners.verify import CHECKS, Refuted, examine, measure, show
from tests.runners.broken import (
    decoding,
    dependence,
    leaks,
    learning,
    numbers,
    padding,
    repeatability,
    soundness,
)

NS, CS, NC, CC = (
    Pattern.NONCAUSAL_SELF,
    Pattern.CAUSAL_SELF,
    Pattern.NONCAUSAL_CROSS,
    Pattern.CAUSAL_CROSS,
)
LEAKS = {"leak_suffix", "leak_length", "leak_gradient"}
PADDING = {"padding_content", "padding_appended"}
CONFIG = registry.CONF / "verify.yaml"
DECODING = {"step", "prefill"}  # where the parallel form is wrong, they differ from it
SIZES: dict[str, Any] = {"lengths": (2, 17, 65), "long_len": 330}  # those of the command take long
FEWER: dict[str, Any] = {"lengths": (33,), "long_len": 130}
"""For what ships: other tests hold its outputs, steps and prefixes to oracles at more lengths."""

# A class, a pattern, the check that names its flaw, first of all that fail, and what else fails.
FLAWS = [
    (
        dependence.Zeros,
        CS,
        "uses_own",
        {"uses_earlier", "gradients", "dropout"},
        r"(\d+) of \1 outputs",
    ),
    (dependence.HalfZeros, NC, "uses_source", {"padding_appended"}, "outputs tried at length 65"),
    (dependence.OneSided, NS, "uses_later", set(), "outputs tried at .* causal mechanism"),
    (dependence.BlindToSource, NC, "uses_source", {"gradients", "dropout"}, r"(\d+) of \1 outputs"),
    (dependence.BlindToQuery, NC, "uses_own", {"gradients"}, r"(\d+) of \1 outputs"),
    (dependence.BlindInTraining, NC, "uses_own", {"training", "gradients"}, "^in training, with d"),
    (dependence.DeadFarOut, NS, "uses_earlier", {"uses_later"}, "at length 330"),
    (
        dependence.CausalWhereLengthsAgree,
        CC,
        "leak_length",
        {"uses_source", "padding_appended"},
        "a constant depends on the present length",
    ),
    (dependence.MixingControl, CC, "mixes_nothing", set(), "though mixes = False declares"),
    (
        leaks.LeakAcrossChunkBorder,
        CS,
        "leak_suffix",
        LEAKS | DECODING | {"padding_content"},
        r"queries from (32|64) on .* across a chunk border \(only multiples of 32\), so the",
    ),
    (leaks.LeakAcrossLongChunkBorder, CS, "leak_suffix", LEAKS | DECODING, "multiples of 128"),
    (
        leaks.LeakInsideChunk,
        CS,
        "leak_suffix",
        LEAKS | PADDING | DECODING,
        r"inside a chunk \(all but multiples of 32\)",
    ),
    (
        leaks.LeakInFirstHalf,
        CS,
        "leak_suffix",
        LEAKS | PADDING | DECODING,
        r"in the first half only \(positions 1 to 31\)",
    ),
    (
        leaks.LeakBetweenBorders,
        CS,
        "leak_suffix",
        LEAKS | PADDING | {"step"},
        r" 1 of \d+ positions tried, the first 313",
    ),
    (
        leaks.QueryMean,
        CC,
        "leak_suffix",
        LEAKS | DECODING,
        "at every position, so a decoder trained with it would read what it has yet to generate",
    ),
    (leaks.FaintLeak, CC, "leak_suffix", LEAKS | PADDING | DECODING, "changes by [0-9.]*e-0[56]"),
    (leaks.GatedLeak, CC, "leak_suffix", LEAKS | PADDING | DECODING, "at every position"),
    (
        leaks.LeakInTraining,
        CS,
        "leak_suffix",
        {"leak_gradient", "padding_content", "training"},
        "^in training, with dropout: .* at every position tried",
    ),
    (
        leaks.LeakInLongTraining,
        CS,
        "leak_suffix",
        {"leak_gradient", "padding_content", "training"},
        r"^in training, with dropout: .* \(length 330\)",
    ),
    (
        leaks.NoMaskWithDropout,
        CS,
        "leak_suffix",
        {"leak_gradient", "padding_content", "training"},
        "^in training, with dropout",
    ),
    (leaks.LeakInHalf, CS, "leak_suffix", {"precision"}, "^in bfloat16: .* a later query leaks"),
    (leaks.LeakUnderAutocast, CS, "leak_suffix", set(), "^in training under autocast to bfloat16"),
    (
        leaks.PresentLength,
        CS,
        "leak_length",
        {"padding_appended"} | DECODING,
        "changes by .* 330 is cut after .* a constant depends on the present",
    ),
    (padding.IgnoresPadding, NS, "padding_content", PADDING, "padding of the query"),
    (padding.IgnoresPadding, CS, "padding_content", set(), "padding of the query"),
    (padding.IgnoresPadding, NC, "padding_content", PADDING, "padding of the context"),
    (padding.IgnoresPaddingInTraining, NC, "padding_content", {"training"}, "^in training, with"),
    (padding.IgnoresPaddingWhereLong, NS, "padding_content", PADDING, r"length 330\)"),
    (padding.QueryMaskForKeys, NC, "padding_content", PADDING, "as long as the other sequence"),
    (padding.QueryMaskForKeys, CC, "padding_content", PADDING, "as long as the other sequence"),
    (padding.MasksAnotherSample, NS, "batch", set(), "of sample .*, with padding"),
    (padding.NanInPadding, NS, "finite", set(), "not a number at padded queries"),
    (repeatability.MixesSamples, CS, "batch", set(), "of sample"),
    (repeatability.MixesSamplesInTraining, NS, "batch", {"training"}, "^in training, with dropout"),
    (repeatability.Noisy, CS, "determinism", set(), "a second call in evaluation"),
    (repeatability.KeepsACounter, NS, "determinism", set(), "resumed from a checkpoint"),
    (
        repeatability.PythonRandom,
        NS,
        "seeding",
        {"dropout"},
        "two instances built under the same seed",
    ),
    (repeatability.UnsavedFeatures, CS, "state_dict", set(), "is not saved"),
    (repeatability.CachesWeights, NS, "state_dict", set(), "at an earlier call stays"),
    (repeatability.SeedsAnew, NS, "generator", set(), "a call in evaluation seeds the global"),
    (repeatability.SeedsAtConstruction, NS, "generator", set(), "the constructor seeds the global"),
    (decoding.DriftsInSteps, CS, "step", {"prefill"}, "token 100 is the first .* of 330 differs"),
    (decoding.ForgetsInPrefill, CS, "prefill", {"beam"}, "the tokens after it"),
    (decoding.ForgetsAtBlockEnd, CS, "prefill", set(), r"the tokens after it \(number (46|61|62)"),
    (decoding.TakesMaskForLength, CC, "step", {"prefill"}, "whose context has padding differs"),
    (decoding.StateByHead, CS, "beam", set(), "an exception inside the mechanism: RuntimeError"),
    (decoding.OtherStateBehindPrompt, CS, "beam", set(), "an exception inside the mechanism"),
    (learning.OtherTemperatureInTraining, NS, "training", set(), "what is trained is not what"),
    (learning.RootOfZero, NS, "gradients", set(), "for zeros, the gradient of query"),
    (learning.UntrainedParameter, NS, "gradients", set(), "no gradient reaches scale"),
    (learning.IdleParameter, NS, "gradients", set(), "gradient of scale is exactly zero"),
    (learning.SteepWhereLarge, NS, "gradients", set(), "magnitude 100 in float32, the gradient"),
    (learning.IgnoresDropout, NS, "dropout", set(), "no effect in training"),
    (learning.DropsInEvaluation, NS, "dropout", set(), "by dropout in evaluation"),
    (numbers.Overflows, NS, "finite", {"gradients"}, "inputs of magnitude 1000"),
    (numbers.NarrowOutput, NS, "construction", set(), "type torch.float64, got torch.float32"),
    (numbers.FailsInHalf, NS, "precision", set(), "RuntimeError: in bfloat16: expected scalar"),
    (numbers.FailsUnderAutocast, NS, "precision", set(), "under autocast to bfloat16: Index put"),
    (numbers.OtherInHalf, NS, "precision", set(), "in bfloat16: 130 of 130 outputs differ by more"),
    (soundness.Overwrites, NS, "keeps_inputs", set(), "overwrites its query"),
    (soundness.OverwritesQuery, NS, "keeps_inputs", set(), "overwrites its query"),
    (soundness.SwallowsSettings, NS, "settings", set(), "swallows a setting"),
    (soundness.WrongShape, NS, "construction", set(), r"= \(2, 65, 32\), got Tensor of \(2, 64"),
    (
        soundness.Raises,
        NS,
        "finite",
        {"batch", "uses_earlier", "uses_later", "training", "gradients"} | PADDING,
        "IndexError: block 7 of 6 .at soundness.py",
    ),
]


def found(cls: type[Attention], pattern: Pattern) -> list[Finding]:
    return examine(cls, Subject(cls, pattern, **SIZES))


def failures(cls: type[Attention], pattern: Pattern) -> dict[str, Finding]:
    return {f.check: f for f in found(cls, pattern) if not f.passed and f.refutes}


@pytest.mark.parametrize(("name", "pattern"), registry.claims())
@pytest.mark.slow
def test_a_shipped_claim_holds(name: str, pattern: Pattern) -> None:
    config = registry.load(name)
    cls = registry.mechanism(config["_target_"])
    sizes = FEWER
    if name == "reformer":  # at 32 to 34 tokens a tenth of its rows change their bucket in float16
        sizes = {"lengths": (2, 65), "long_len": 200}
    findings = examine(cls, Subject(registry.factory(config), pattern, **sizes))
    assert not [f for f in findings if not f.passed and f.refutes]
    assert len(findings) > 1  # a refusal would be the only one
    # Of the user's own, a missing decoding form is only a warning.
    assert not [f for f in findings if f.message.startswith("missing")]


@pytest.mark.parametrize(
    ("cls", "pattern", "check", "others", "message"),
    FLAWS,
    ids=[f"{flaw[0].__name__}-{flaw[1].short}-{flaw[2]}" for flaw in FLAWS],
)
def test_a_flaw_is_found_by_name(
    cls: type[Attention], pattern: Pattern, check: str, others: set[str], message: str
) -> None:
    failed = failures(cls, pattern)
    assert next(iter(failed)) == check
    assert failed.keys() == {check} | others
    assert re.search(message, failed[check].message), failed[check].message


def test_every_check_is_seen_to_fail() -> None:
    warnings = {"state_growth", "parameters"}  # see the tests below
    seen = {check for _, _, check, others, _ in FLAWS for check in {check} | others}
    assert {check.name for check in CHECKS} - warnings == seen


def test_noise_in_training_that_is_declared_is_no_flaw_and_named_as_unexamined() -> None:
    findings = {f.check: f for f in found(learning.DeclaresItsNoise, NS)}
    assert not failures(learning.DeclaresItsNoise, NS)
    assert "noise is added to the values" in findings["training"].unexamined[0]
    assert "where it draws at random" in findings["padding_appended"].unexamined[0]


def test_a_parameter_that_is_not_to_be_trained_is_no_flaw() -> None:
    assert not failures(learning.FrozenParameter, CS)


def test_a_window_with_gaps_reads_the_past_where_the_lengths_let_it() -> None:
    def failed(*lengths: int) -> list[str]:
        subject = Subject(dependence.Dilated, CS, lengths=lengths, long_len=200)
        return [f.check for f in examine(dependence.Dilated, subject) if f.refutes and not f.passed]

    assert failed(17, 32) == ["uses_earlier"]
    assert failed(17, 100) == []


@pytest.mark.parametrize("pattern", [NS, NC])
def test_lengths_reach_the_noncausal_patterns(pattern: Pattern) -> None:
    short = Subject(padding.IgnoresPaddingWhereLong, pattern, lengths=(17, 65), long_len=70)
    assert not [f for f in examine(padding.IgnoresPaddingWhereLong, short) if not f.passed]
    assert "padding_content" in failures(padding.IgnoresPaddingWhereLong, pattern)


def test_what_torch_cannot_compute_in_half_precision_is_not_examined() -> None:
    class NoHalf(LinearAttention):
        def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
            if query.dtype == torch.float16:
                raise RuntimeError("\"some_cpu\" not implemented for 'Half'")
            return super().attend(query, context, **masks)

    findings = {f.check: f for f in found(NoHalf, NS)}
    assert findings["precision"].passed
    assert "in float16, for which torch says" in findings["precision"].unexamined[0]


@pytest.mark.parametrize("pattern", [NS, NC])
def test_pooling_over_queries_is_honest_in_the_noncausal_patterns(pattern: Pattern) -> None:
    assert not failures(leaks.QueryMean, pattern)


@pytest.mark.parametrize("pattern", [CS, CC])
def test_rounding_that_differs_between_lengths_is_no_leak(pattern: Pattern) -> None:
    assert not failures(leaks.RoundsByLength, pattern)


def test_a_float32_form_is_no_leak_under_its_own_tolerance() -> None:
    subject = Subject(leaks.RoundsByLength, CS, dtype=torch.float32, **SIZES)
    assert not [f for f in examine(leaks.RoundsByLength, subject) if not f.passed]


def test_what_a_checkpoint_holds_may_be_kept_from_call_to_call() -> None:
    assert not failures(repeatability.SavesItsCounter, NS)


def test_refusing_dropout_is_remarked_and_no_failure() -> None:
    findings = {f.check: f for f in found(learning.RefusesDropout, NS)}
    assert not failures(learning.RefusesDropout, NS)
    assert findings["dropout"].message.startswith("dropout is refused")


def test_a_narrower_type_inside_is_named_as_a_possible_cause() -> None:
    failed = failures(numbers.NarrowInside, CS)
    assert failed
    assert all("dtype=float32 allows for it" in f.message for f in failed.values())
    subject = Subject(numbers.NarrowInside, CS, dtype=torch.float32, **SIZES)
    assert not [f for f in examine(numbers.NarrowInside, subject) if not f.passed]


def test_a_growing_state_is_reported_and_no_failure() -> None:
    softmax = {f.check: f for f in found(SoftmaxAttention, CS)}["state_growth"]
    linear = {f.check: f for f in found(LinearAttention, CS)}["state_growth"]
    # Keys and values of 32 numbers of 8 bytes; sums of 4 heads of 8 x 9.
    assert softmax.passed
    assert softmax.worst == 4.0
    assert "65,536 bytes after 128 tokens, 262,144 after 512" in softmax.message
    assert linear.worst == 1.0
    assert "constant: 2,304 bytes after 128 tokens" in linear.message


def test_a_missing_decoding_form_is_a_warning() -> None:
    failed = [f for f in found(decoding.NoDecoding, CS) if not f.passed]
    assert [f.check for f in failed] == ["step", "prefill", "beam", "state_growth"]
    assert not any(f.refutes for f in failed)
    assert "missing: NoDecoding has no decoding state" in failed[0].message


def test_too_many_parameters_are_a_warning() -> None:
    finding = {f.check: f for f in found(soundness.Bloated, NS)}["parameters"]
    added = 512 * 2048 + 2048
    layer = 4 * 512 * 513 + 2 * 4 * 512 * 512 + 5 * 512 + 4 * 512
    assert not finding.passed
    assert not finding.refutes
    assert finding.worst == pytest.approx(added / layer, rel=1e-12)  # the same division
    assert "of a Transformer layer with softmax" in finding.message


def test_a_pattern_that_is_not_claimed_must_be_refused() -> None:
    (refused,) = found(decoding.NoDecoding, NC)
    (built,) = found(soundness.ServesUnclaimed, NC)
    assert refused.passed
    assert refused.message == "NoDecoding has no noncausal_cross; it has: causal_self"
    assert not built.passed
    assert "not claimed, yet it builds" in built.message


def test_what_the_constructor_refuses_is_not_claimed() -> None:
    (refused,) = found(soundness.ClaimsWhatItRefuses, NC)
    assert refused.passed
    assert "has no noncausal_cross (its part is not made for two sequences)" in refused.message
    assert "settings" in {f.check for f in found(soundness.ClaimsWhatItRefuses, NS)}


def test_a_refusal_after_construction_is_a_failure() -> None:
    failed = failures(soundness.RefusesWhenCalled, NS)
    assert failed.keys() == {"construction"}
    assert "UnsupportedPattern" in failed["construction"].message


def test_each_check_is_told_before_it_runs_and_what_none_can_examine_is_named() -> None:
    told: list[tuple[int, int, str]] = []
    subject = Subject(soundness.WrongShape, NS, **SIZES)
    (finding,) = examine(soundness.WrongShape, subject, lambda *event: told.append(event))
    ((number, total, check),) = told
    assert (number, check) == (0, "construction")
    (unexamined,) = finding.unexamined
    assert unexamined.endswith("parameters: each needs construction")
    assert len(unexamined.split(", ")) == total - 1


def test_an_output_that_means_nothing_is_no_error() -> None:
    actual = torch.tensor([[[1.0], [torch.nan]]])
    expected = torch.tensor([[[1.0], [5.0]]])
    assert errors(actual, expected, torch.tensor([[False, True]])).tolist() == [[0.0, 0.0]]
    assert errors(actual, expected)[0, 1] == torch.inf


def test_errors_are_shares_of_the_size_at_their_position() -> None:
    def rows(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[None, :, None]

    expected = rows(2.0, 1e-9, 0.0, 1.0)
    actual = rows(2.0, 2e-3, 0.0, torch.nan)
    # The second is small beside its sequence: a thousandth of 2 is its scale.
    assert errors(actual, expected)[0].tolist() == pytest.approx([0, 1, 0, torch.inf], abs=1e-6)
    assert errors(rows(3.0), rows(0.0)).item() == 1.0  # zero was due
    assert errors(rows(0.0), rows(0.0)).item() == 0.0


def test_sizes_that_cannot_be_examined_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths must rise and end below long_len = 100, got"):
        Subject(SoftmaxAttention, CS, lengths=(1, 200), long_len=100)
    with pytest.raises(ValueError, match="max_len must be at least 599, got 512"):
        Subject(SoftmaxAttention, CS, max_len=512)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    found(SoftmaxAttention, NC)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_report_tells_what_where_and_which_patterns_are_not_claimed() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    findings = [f for pattern in Pattern for f in found(decoding.NoDecoding, pattern)]
    findings.append(Finding(CS, "leak_suffix", False, 0.4, 31, "output 31 changes"))
    findings.append(Finding(CS, "gradients", False, message="no gradient"))
    show(decoding.NoDecoding, findings, console)
    text = console.export_text()
    assert re.search(r"leak_suffix +│ FAILED 0\.4", text)
    assert "refuted causal_self leak_suffix: output 31 changes" in text
    assert "warning causal_self step, prefill, beam, state_growth: missing" in text
    assert "not claimed: NoDecoding has no causal_cross; it has: causal_self" in text
    assert "also causal_self gradients: no gradient" in text
    assert "not examined: causal_self: decoding, which it does not have" in text
    assert "not examined: other devices than cpu" in text
    assert "mend first: leak_suffix" in text
    assert text.rstrip().endswith("NoDecoding is refuted")
    assert (
        str(Refuted("NoDecoding", findings[-2:-1]))
        == "NoDecoding is refuted (causal_self: leak_suffix)"
    )


def run(tmp_path: Path, name: str, pattern: Pattern | None) -> Run:
    target = name if name.startswith("attentions.") else f"tests.runners.broken.{name}"
    settings = {"attention": {"_target_": target}, "pattern": pattern, "seed": 0}
    return Run("id", cast(DictConfig, OmegaConf.merge(OmegaConf.load(CONFIG), settings)), tmp_path)


def test_what_was_found_is_recorded_before_the_claim_is_refuted(tmp_path: Path) -> None:
    refuted = run(tmp_path, "padding.IgnoresPadding", CS)
    with pytest.raises(
        Refuted, match=r"IgnoresPadding is refuted \(causal_self: padding_content\)"
    ):
        measure(refuted)
    rows = {m.metric: m for m in refuted.measurements}
    value = rows["verify/causal_self/leak_suffix"].value
    assert value is not None
    assert value < 1e-9  # rounding, which kernels do differently
    assert rows["verify/causal_self/padding_content"].comment.startswith("failed: output")


def test_a_pattern_that_is_not_claimed_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedPattern, match="NoDecoding has no causal_cross"):
        measure(run(tmp_path, "decoding.NoDecoding", CC))
    with pytest.raises(UnsupportedPattern, match="ClaimsWhatItRefuses has no noncausal_cross"):
        measure(run(tmp_path, "soundness.ClaimsWhatItRefuses", NC))
    with pytest.raises(ValueError, match="Attention claims no pattern: name them"):
        measure(run(tmp_path, "attentions.base.Attention", None))


def test_the_machines_failures_are_not_the_mechanisms() -> None:
    class LacksMemory(LinearAttention):
        def attend(self, query: Tensor, context: Tensor, **masks: Any) -> Tensor:
            raise MemoryError

    with pytest.raises(MemoryError):
        found(LacksMemory, NS)


OWN = """
from attentions.linear.linear_elu import LinearAttention
from attentions.base import Pattern

class Right(LinearAttention):
    patterns = frozenset({Pattern.CAUSAL_SELF})

class Leaking(Right):
    def attend(self, query, context, **masks):
        return super().attend(query, context, **masks) + query.mean(1, keepdim=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("Right", 0), ("Leaking", 1)])
def test_the_command_judges_a_class_of_the_users_own(tmp_path: Path, name: str, code: int) -> None:
    (tmp_path / "own_attention.py").write_text(OWN)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "runners.cli", "verify"),
            f"attention._target_=own_attention.{name}",
            "pattern=causal_self",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(registry.CONF.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert "Leaking is refuted (causal_self: leak_suffix" in done.stderr
        assert "a later query leaks at every position" in " ".join(done.stdout.split())
    else:
        assert "Right holds in all that was examined" in done.stdout
    assert len(list(tmp_path.glob("results/verify/runs/*.json"))) == 1
