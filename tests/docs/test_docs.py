"""What the documentation says is so: links lead somewhere, commands and flags exist, the stage page follows the catalog."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.report.stage_docs import stages_page
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text, load_workflow

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
WORKFLOWS = sorted((ROOT / "workflows").rglob("*.yaml"))


def test_the_page_of_stages_is_as_the_catalog_says():
    page = (ROOT / "docs" / "stages.md").read_text()
    assert page == stages_page(), "run: python -m orchestrator.report.stage_docs > docs/stages.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_workflow_is_sound_and_opens_with_its_command(workflow):
    check_workflow(load_workflow(workflow))
    assert f"orchestrator submit {workflow.relative_to(ROOT)}" in workflow.read_text().splitlines()[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_workflows_shown_in_the_documentation_are_sound(page):
    for block in re.findall(r"```yaml\n(version: 1.*?)```", page.read_text(), re.DOTALL):
        check_workflow(load_text(block, file=str(page)))
