"""`report` and `card` as a person calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import Cli


def test_report_writes_one_page_and_says_where_and_how_large(cli: Cli, searched: str) -> None:
    answer = cli("report")
    page = Path(f"report-{searched}.html")
    assert answer.code == 0
    assert answer.out == ""
    assert f"report of run {searched} (done) written to {page}, " in answer.err
    assert page.read_text().startswith("<!doctype html>")


def test_report_takes_its_format_from_the_name_of_the_file(cli: Cli, searched: str) -> None:
    cli("report", "@last", "--out", "r.md")
    cli("report", "@last", "--out", "r.csv")
    cli("report", "@last", "--out", "r.json")
    assert Path("r.md").read_text().startswith("# searching: run ")
    assert len(Path("r.csv").read_text().splitlines()) == 7
    assert '"report_version": 1' in Path("r.json").read_text()


@pytest.mark.parametrize("arguments", [["--json"], ["--format", "json"], ["--format", "json", "--out", "-"]], ids=" ".join)
def test_json_goes_to_stdout_and_writes_no_file(cli: Cli, finished: str, arguments: list[str]) -> None:
    before = set(Path().iterdir())
    answer = cli("report", "@last", *arguments)
    assert answer.document["schema"] == 1
    assert answer.document["run"]["id"] == finished
    assert answer.err == ""
    assert set(Path().iterdir()) == before


def test_csv_of_the_report_is_that_of_the_sweep(cli: Cli, searched: str) -> None:
    assert cli("report", "--format", "csv").out == cli("sweep", "show", "--csv", "-").out


def test_markdown_goes_to_stdout(cli: Cli, finished: str) -> None:
    answer = cli("report", "--format", "md")
    assert answer.out.startswith(f"# chain: run {finished}\n")
    assert "## How to reproduce" in answer.out


def test_report_of_a_failed_run_is_no_failure(cli: Cli) -> None:
    assert cli("submit", "failing.yaml", "--executor", "inline").code == 3
    answer = cli("report", "@last-failed")
    assert answer.code == 0
    assert "(failed) written to" in answer.err


def test_two_things_cannot_both_have_stdout(cli: Cli, finished: str) -> None:
    answer = cli("report", "--json", "--format", "md")
    assert answer.code == 2
    assert "--out FILE" in answer.err


def test_report_without_a_run_says_where_to_look(cli: Cli) -> None:
    answer = cli("report", "nothing")
    assert answer.code == 2
    assert "orchestrator ls" in answer.err


def test_a_file_that_cannot_be_written_is_the_users_to_mend(cli: Cli, finished: str) -> None:
    answer = cli("report", "--out", "missing/r.html")
    assert answer.code == 2
    assert "cannot write missing/r.html" in answer.err


def test_card_tells_what_an_artifact_is_and_how_to_make_it_again(cli: Cli, finished: str) -> None:
    text = cli("card", "@last/last").out
    for part in ("## Figures", "## Made from", "## Environment", "## How to load", "## How to reproduce"):
        assert part in text
    assert "orchestrator submit chain.yaml --executor inline" in text
    assert "| first | probe.echo |" in text


def test_card_as_json_has_the_lineage(cli: Cli, finished: str) -> None:
    card = cli("card", "@last/last", "--json").document["card"]
    assert [each["label"] for each in card["lineage"]][-1] == "last"
    assert card["reproduce"] == "orchestrator submit chain.yaml --executor inline"


def test_card_goes_to_a_file(cli: Cli, finished: str) -> None:
    answer = cli("card", "@last/first", "--out", "CARD.md")
    assert answer.out == ""
    assert "written to CARD.md" in answer.err
    assert Path("CARD.md").read_text().startswith("# first (")
