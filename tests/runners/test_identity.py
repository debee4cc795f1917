"""The identity of a run, how its code is named, and what a reader is told of it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from runners import environment, fingerprint
from runners.cli import CONF
from runners.identity import Identity, described, run_name, supersedes
from runners.records import Record, RecordStore, Status, run_id, settings_id

SETTINGS: dict[str, Any] = {}


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


@pytest.mark.parametrize("command", ["train", "speed", "verify"])
def test_every_setting_is_part_of_the_identity_but_those_of_the_run(command: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose(command))
    paths = list(leaves(settings))
    assert ("device",) in paths
    assert ("run", "threads") in paths
    for path in paths:
        changed: Any = OmegaConf.to_container(OmegaConf.create(settings))
        node = changed
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = "another"
        one, other = (run_id(settings_id(command, s), {}, None) for s in (changed, settings))
        same = one == other
        assert same == (path[0] == "run"), path


def test_code_data_and_version_are_part_of_the_identity_and_the_commit_is_not() -> None:
    sources = {"mine": "a", "task.data.source": "b", "attnbench": "c"}
    own = settings_id("train", SETTINGS)
    whole = run_id(own, sources, "0.1.0")
    assert whole == run_id(own, sources | {"attnbench": "d"}, "0.1.0")
    others = [
        run_id(own, sources, "0.2.0"),
        run_id(own, sources | {"mine": "d"}, "0.1.0"),
        run_id(own, sources | {"task.data.source": "d"}, "0.1.0"),
        run_id(own, sources | {"helper": "d"}, "0.1.0"),
        run_id(settings_id("train", {"seed": 1}), sources, "0.1.0"),
    ]
    assert len({whole, *others}) == 6
    # Records of the same settings can be found by their names.
    assert [other.startswith(own) for other in others] == [True, True, True, True, False]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_commit_is_named_only_if_it_holds_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "libraries"
    monkeypatch.setattr(environment, "ROOT", package)
    (package / "runners").mkdir(parents=True)
    for name in ("runners/environment.py", "README.md", "../theirs.py"):
        (package / name).touch()
    none = {"git_commit": None, "git_dirty": None}
    assert environment._commit() == none  # no repository
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "theirs.py")
    git(tmp_path, "commit", "-qm", "Another project, where the package is installed")
    assert environment._commit() == none
    git(tmp_path, "add", "libraries")
    git(tmp_path, "commit", "-qm", "A checkout")
    head = {"git_commit": git(tmp_path, "rev-parse", "HEAD")}
    (package / "README.md").write_text("no number comes from here")
    assert environment._commit() == head | {"git_dirty": False}
    new = package / "attentions" / "mine.py"  # not added yet: the commit lacks it
    new.parent.mkdir()
    new.touch()
    assert environment._commit() == head | {"git_dirty": True}
    new.unlink()
    (package / "runners/environment.py").write_text("changed")
    assert environment._commit() == head | {"git_dirty": True}


def test_a_run_names_what_tells_it_from_others() -> None:
    labels = {"task": "mqar", "pattern": "causal_self", "seed": 0, "variant": ""}
    labels |= {"attention": "softmax", "attention_class": "attentions.softmax.softmax.Softmax"}
    assert run_name(labels) == "mqar softmax causal_self seed 0"
    swept = labels | {"variant": "task.model.lr=0.01, trainer.max_epochs=1"}
    told = "mqar softmax causal_self seed 0 lr=0.01 max_epochs=1 device=cpu"
    assert run_name(swept, ["seed=0", "device=cpu"]) == told
    twice = labels | {"variant": "task.data.seed=1, task.model.seed=2, attention.ks=[1, 2]"}
    expected = "mqar softmax causal_self seed 0 task.data.seed=1 task.model.seed=2 ks=[1, 2]"
    assert run_name(twice) == expected
    own = [labels | {"attention": "Mine", "attention_class": f"{m}.Mine"} for m in ("v1", "v2")]
    assert [run_name(one) for one in own] == [
        "mqar v1.Mine causal_self seed 0",
        "mqar v2.Mine causal_self seed 0",
    ]


def record(identity: str, **fields: Any) -> Record:
    made: dict[str, Any] = {"environment": {"attnbench": "0.0.9", "git_commit": "6e69f1c5acd040"}}
    made |= {"sources": {"mine": "a", "attnbench": "1a2b3c4d5e"}} | fields
    made |= {"started_at": "2026-11-27T15:32:10+00:00"}
    return Record(identity, "train", Status.OK, {}, **made)


def identity(sources: dict[str, str]) -> Identity:
    return Identity("a-2", "a", sources | {"attnbench": fingerprint.package_digest()})


def test_a_record_by_other_code_of_ours_names_both() -> None:
    told = described(record("a-1"), identity({}))
    assert told.startswith("of 2026-11-27 15:32 UTC, made by ")
    assert "attnbench 0.0.9, commit 6e69f1c5ac, code 1a2b3c4d" in told
    assert f"code {fingerprint.package_digest()[:8]})" in told
    ours = record(
        "a-1",
        environment=environment.environment(),
        sources={"attnbench": fingerprint.package_digest()},
    )
    assert described(ours, identity({})) == "of 2026-11-27 15:32 UTC"


def test_a_new_run_names_what_changed_since_the_record_it_supersedes(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    assert store.other("a-2") is None
    for name in ("a-1", "a-2", "b-1"):
        store.write(record(name))
    found = store.other("a-2")
    assert found is not None
    assert found.run_id == "a-1"
    now = {"attnbench": environment.version()}
    same = record("a-1", environment=now)
    told = "changed since the record of 2026-11-27 15:32 UTC, which this run supersedes"
    assert supersedes(same, identity({"mine": "b"})) == f"mine has {told}"
    assert supersedes(same, identity({"mine": "b", "helper": "c"})) == f"helper, mine have {told}"
    version = f"attnbench (0.0.9, now {environment.version()})"
    assert supersedes(found, identity({"mine": "a"})) == f"{version} has {told}"
