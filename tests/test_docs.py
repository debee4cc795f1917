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


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
