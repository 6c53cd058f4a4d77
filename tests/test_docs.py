"""What the documentation names exists: files, sections, and every paper that the code cites."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
PATH = re.compile(r"`((?:judges|classic_rm|tests|prompts|docs|examples)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)")


def anchors(page) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    missing = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    for target, anchor in LINK.findall(text):
        other = (page.parent / target).resolve() if target else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            missing.append(f"{target}#{anchor}")
    assert missing == []


ARXIV = r"\d{4}\.\d{4,5}"


def test_every_cited_paper_is_in_the_index():
    cited: set[str] = set()
    for folder in ("judges", "classic_rm", "prompts"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md"):
                cited |= set(re.findall(rf"arXiv:? ?({ARXIV})", path.read_text(encoding="utf-8")))
    index = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    assert cited and cited <= set(re.findall(ARXIV, index))
