from runners.records import Status
from runners.report.verification import endings, verification
from tests.runners.report.made import rows, train, verify


def test_a_verdict_per_pattern() -> None:
    table = verification(
        rows(
            verify(
                "abc",
                {
                    "causal_self/leak_suffix": "failed: position 3 changes by 0.2",
                    "causal_self/padding": "",
                    "noncausal_self/padding": "",
                    "noncausal_self/step": "warning: missing",
                    "causal_cross/refusal": "",
                },
                Status.FAILED,
            ),
            verify("softmax", {"noncausal_self/padding": "a remark"}),
        )
    )
    assert table is not None
    assert table.header == ["attention", "noncausal self", "causal self", "causal cross"]
    assert [list(line) for line in table.lines] == [
        ["abc", "holds (2 checks); warning: step", "REFUTED: leak_suffix", "not claimed"],
        ["softmax", "holds (1 checks)", "–", "–"],
    ]


def test_nothing_verified_is_no_table() -> None:
    assert verification(rows(train("abc", {"accuracy": 1.0}))) is None


def test_runs_with_one_reason_stand_together() -> None:
    made = [train("abc", status=Status.OOM, error="no memory", seed=seed) for seed in (0, 1)]
    made += [train("abc", status=Status.FAILED, error="boom", seed=2), train("softmax")]
    table = endings(rows(made))
    assert table is not None
    assert [list(line) for line in table.lines] == [
        ["failed", "train", "mqar", "abc", "causal_self", "1", "boom"],
        ["oom", "train", "mqar", "abc", "causal_self", "2", "no memory"],
    ]
    assert len(table.data) == 3


def test_all_well_is_no_table() -> None:
    assert endings(rows(train("abc", {"accuracy": 1.0}))) is None
