"""The pages that are made from the code are what their scripts write: else `make reference`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def written(script, *arguments):
    """What a script writes."""
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize(
    ("script", "page"), [("lives", "explanation/lives.md"), ("transcripts", "reference/transcripts.md")]
)
def test_page_is_what_the_script_writes(script, page):
    assert written(script) == (ROOT / "docs" / page).read_text()


def test_lives_are_explored_to_their_ends():
    """Three diagrams, each from its beginning to its end, and nothing is left out for want of depth."""
    page = (ROOT / "docs/explanation/lives.md").read_text()
    assert page.count("    [*] --> s0") == 3
    assert all("--> [*]: " in diagram for diagram in page.split("```mermaid")[1:])
    assert written("lives", "10") == page
    assert written("lives", "3") != page
