"""What a number depends on beyond its settings, by files written for each test."""

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runners import contents, fingerprint
from runners.contents import digest_of
from runners.fingerprint import dependence, modules


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, where commands are run and modules are found."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(fingerprint, "_seen", {})
    return folder


def sources(settings: dict[str, Any], cache: Path) -> dict[str, str]:
    return fingerprint.sources(dependence(settings), cache)


MINE = "class Mine: ..."


@pytest.mark.parametrize(
    ("target", "files", "edited"),
    [
        ("mine.Mine", {"mine.py": MINE}, "mine.py"),
        ("mine.Outer.Mine", {"mine.py": MINE}, "mine.py"),
        ("mine.Mine", {"mine.py": "import helper"}, "helper.py"),
        ("mine.Mine", {"mine.py": "from helper import f as g"}, "helper.py"),
        ("mine.Mine", {"mine.py": "import a", "a.py": "import helper"}, "helper.py"),
        ("mine.Mine", {"mine.py": "def f():\n    import helper"}, "helper.py"),
        ("mine.Mine", {"mine.py": "import importlib as i\ni.import_module('helper')"}, "helper.py"),
        ("lab.mine.Mine", {"lab/mine.py": MINE}, "lab/mine.py"),
        ("lab.mine.Mine", {"lab/mine.py": MINE}, "lab/__init__.py"),
        ("lab.Mine", {"lab/__init__.py": "from .mine import Mine"}, "lab/mine.py"),
        ("lab.mine.Mine", {"lab/mine.py": "from . import helper"}, "lab/helper.py"),
        ("lab.mine.Mine", {"lab/mine.py": "from .helper import f"}, "lab/helper.py"),
        ("lab.a.mine.Mine", {"lab/a/mine.py": "from ..helper import f"}, "lab/helper.py"),
        ("lab.a.mine.Mine", {"lab/a/mine.py": "from lab.b import helper"}, "lab/b/helper.py"),
        ("mine.Mine", {"mine.py": "import kernel"}, "kernel.abi3.so"),
    ],
)
def test_the_code_of_a_class_is_all_that_it_imports(
    here: Path, target: str, files: dict[str, str], edited: str
) -> None:
    write(here, {edited: "f = 1", "other.py": "f = 1"} | files)
    before = modules([target])
    write(here, {"other.py": "f = 2"})
    assert modules([target]) == before
    write(here, {edited: files.get(edited, "") + "\nf = 2"})
    after = modules([target])
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in after) == 1


def test_finding_the_code_runs_none_of_it(here: Path) -> None:
    write(here, {"mine.py": "import lab.helper\nexit(3)", "lab/helper.py": "exit(4)"})
    write(here, {"lab/__init__.py": "exit(5)"})
    assert modules(["mine.Mine"]).keys() == {"mine", "lab", "lab.helper"}
    assert sys.modules.keys().isdisjoint({"mine", "lab"})


def test_what_cannot_be_parsed_still_has_a_hash(here: Path) -> None:
    write(here, {"mine.py": "class Mine(:"})
    assert modules(["mine.Mine"]).keys() == {"mine"}
    assert modules(["nowhere.Mine"]) == {}
    write(here, {"mine.py": "from .... import beyond\nimport nowhere"})
    assert modules(["mine.Mine"]).keys() == {"mine"}


def test_a_module_that_was_imported_stays_what_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, {"mine.py": MINE})
    before = modules(["mine.Mine"])
    monkeypatch.setitem(sys.modules, "mine", object())  # as the run that follows imports it
    write(here, {"mine.py": MINE + " # better"})
    assert modules(["mine.Mine"]) == before
    monkeypatch.delitem(sys.modules, "mine")  # another process
    assert modules(["mine.Mine"]) != before


def test_libraries_are_not_followed_but_for_the_one_that_holds_the_class(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "installed"
    write(installed, {"theirs/__init__.py": "import theirs.part", "theirs/part.py": MINE})
    write(installed, {"theirs-1.dist-info/RECORD": "theirs/__init__.py,,\ntheirs/part.py,,"})
    monkeypatch.syspath_prepend(installed)
    write(here, {"mine.py": "import theirs, torch.nn, os, attentions.base"})
    assert modules(["mine.Mine"]).keys() == {"mine"}
    assert modules(["theirs.Mine"]).keys() == {"theirs", "theirs.part"}


def settings(attention: str = "attentions.softmax.SoftmaxAttention", **data: Any) -> dict[str, Any]:
    return {
        "attention": {"_target_": attention},
        "task": {"data": data, "name": "forecasting"},
        "run": {"results": "results"},
    }


def test_a_mechanism_of_ours_depends_on_the_package_alone(tmp_path: Path) -> None:
    found = sources(settings(), tmp_path)
    assert found == {"attnbench": fingerprint.package_digest()}


def test_the_package_is_its_code_without_the_report(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "ROOT", here)
    code = ["attentions/a.py", "tasks/b/c.py", "runners/d.py", "conf/attention/a.yaml"]
    write(here, dict.fromkeys(code, "1"))
    seen = {fingerprint.package_digest.__wrapped__()}
    write(here, {"runners/report/plots.py": "1", "docs/design.md": "1", "conf/run/local.yaml": "1"})
    assert fingerprint.package_digest.__wrapped__() in seen
    for name in code:
        write(here, {name: "2"})
        seen.add(fingerprint.package_digest.__wrapped__())
    assert len(seen) == 5


def test_two_classes_of_one_name_are_told_apart(here: Path, tmp_path: Path) -> None:
    write(here, {"v1.py": MINE, "v2.py": MINE})
    names = [sources(settings(f"{module}.Mine"), tmp_path).keys() for module in ("v1", "v2")]
    assert names == [{"v1", "attnbench"}, {"v2", "attnbench"}]


def test_any_class_of_the_settings_counts(here: Path, tmp_path: Path) -> None:
    write(here, {"mine.py": MINE, "part.py": MINE, "data.py": MINE})
    made = settings("mine.Mine", _target_="data.Mine")
    made["attention"]["parts"] = [{"_target_": "part.Mine"}]
    assert sources(made, tmp_path).keys() == {"mine", "part", "data", "attnbench"}


def test_data_files_count_by_their_content(here: Path, tmp_path: Path) -> None:
    write(here, {"a.csv": "1,2", "tokenizer.json": "{}", "results/a.json": "", "M": ""})
    write(here, {"books/train/1.txt": "one", "generated/a": "", "forecasting/a": "", "hub/a": ""})

    def names(**data: Any) -> set[str]:
        return set(sources(settings(**data), tmp_path)) - {"attnbench"}

    assert names(source="a.csv", tokenizer="tokenizer.json") == {
        "task.data.source",
        "task.data.tokenizer",
    }
    assert names(source="books", cache_dir=str(here / "books")) == {"task.data.source"}
    assert names(source="generated") == names(source="hub") == names(source="b.csv") == set()
    one = sources(settings(source="a.csv"), tmp_path)
    write(here, {"a.csv": "1,3"})
    assert sources(settings(source="a.csv"), tmp_path) != one


def test_any_file_of_a_folder_counts_but_what_runs_write(here: Path, tmp_path: Path) -> None:
    write(here, {"train/1.txt": "one", "train/2.txt": "two", "results/a.json": "1", ".git/a": "1"})
    os.symlink(here, here / "train" / "loop")

    def digest() -> str | None:
        return digest_of(Path("."), tmp_path / "cache", (here / "results",))

    seen = [digest()]
    write(here, {"results/a.json": "2", "results/b.json": "", ".git/a": "2"})
    assert digest() == seen[0]
    for change in ({"train/2.txt": "owt"}, {"train/3.txt": "three"}, {"new": ""}):
        write(here, change)
        assert digest() not in seen
        seen.append(digest())
    (here / "new").rename(here / "newer")
    assert digest() not in seen


def count_hashing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    hashed, real = [], hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        hashed.append(file.name)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return hashed


def test_a_settled_file_is_hashed_once(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "SETTLED_S", 0.1)
    write(here, {"a.csv": "1,2"})
    time.sleep(0.15)
    hashed = count_hashing(monkeypatch)
    first = digest_of(Path("a.csv"), tmp_path)
    assert digest_of(Path("a.csv"), tmp_path) == first
    assert len(hashed) == 1
    for kept in tmp_path.glob("*.json"):  # lost or damaged, it costs time alone
        kept.write_text('{".": 3}')
    assert digest_of(Path("a.csv"), tmp_path) == first
    assert len(hashed) == 2
    assert digest_of(Path("a.csv"), Path("/dev/null/nowhere")) == first


def test_a_file_that_has_just_changed_is_hashed_again(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both writes within the resolution of the file system's time stamps.
    now = time.time_ns()
    monkeypatch.setattr(contents, "_stamp", lambda path: [3, 1, now, now])
    write(here, {"a.csv": "1,2"})
    first = digest_of(Path("a.csv"), tmp_path)
    write(here, {"a.csv": "2,1"})
    assert digest_of(Path("a.csv"), tmp_path) != first


def test_an_old_time_put_back_does_not_hide_a_change(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "SETTLED_S", 0.1)
    write(here, {"a.csv": "1,2"})
    before = os.stat("a.csv")
    time.sleep(0.15)
    first = digest_of(Path("a.csv"), tmp_path)
    write(here, {"a.csv": "2,1"})
    os.utime("a.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest_of(Path("a.csv"), tmp_path) != first
