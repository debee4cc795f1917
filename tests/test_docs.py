"""The pages that list things list all of them."""

import re
from pathlib import Path

import pytest

from attentions import registry
from attentions.base import Pattern

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", registry.names())
def test_the_page_of_mechanisms_has_each_with_its_patterns(name: str) -> None:
    patterns = registry.mechanism(registry.load(name)["_target_"]).patterns
    short = " ".join(pattern.short for pattern in Pattern if pattern in patterns)
    rows = (ROOT / "docs" / "attentions.md").read_text().splitlines()
    (row,) = (row for row in rows if row.startswith(f"| `{name}` |"))
    assert row.split(" | ")[2] == short


def test_the_page_of_mechanisms_has_each_back_end_with_its_patterns() -> None:
    expected: dict[str, list[str]] = {}
    for name in registry.names():
        for backend, claimed in registry.mechanism(
            registry.load(name)["_target_"]
        ).backends.items():
            short = [pattern.short for pattern in Pattern if pattern in claimed]
            expected.setdefault(backend, []).append(" ".join([f"`{name}`", *short]))
    text = (ROOT / "docs" / "attentions.md").read_text().split("\n## Back ends\n")[1]
    rows = [row.split(" | ") for row in text.split("\n## ")[0].splitlines() if row[:3] == "| `"]
    assert {row[0].strip("| `"): row[1].split(", ") for row in rows} == expected


@pytest.mark.parametrize("name", registry.names())
def test_settings_name_the_back_end_where_there_is_a_choice(name: str) -> None:
    config = registry.load(name)
    has_choice = bool(registry.mechanism(config["_target_"]).backends)
    assert config.get("backend") == ("torch" if has_choice else None)


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
