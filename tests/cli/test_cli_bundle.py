"""`doctor --bundle`: what helps others to help is in it, and no secret is."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from cli_calls import Cli

from orchestrator.cli.doctor_bundle import Hider


def test_the_bundle_has_versions_checks_and_the_end_of_what_failed(cli: Cli) -> None:
    cli("submit", "failing.yaml", "--executor", "inline")
    document = cli("doctor", "--bundle", "report.zip", "--json").document
    assert document["bundle"] == "report.zip"
    with zipfile.ZipFile("report.zip") as bundle:
        assert bundle.namelist() == document["files"]
        texts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert json.loads(texts["versions.json"])["versions"]["orchestrator"]
    assert json.loads(texts["checks.json"])["checks"] == document["checks"]
    assert "click==" in texts["packages.txt"]
    (log,) = [text for name, text in texts.items() if name.endswith(".log")]
    assert log == "probe.fail: attempt 1\n"
    assert any('"type": "node_failed"' in text for name, text in texts.items() if name.endswith("events.jsonl"))


def test_a_bundle_is_a_zip_and_is_refused_before_the_checks_where_it_is_not(cli: Cli) -> None:
    assert "next: orchestrator doctor --bundle report.zip" in cli("doctor", "--bundle", "report").err
    assert cli("doctor", "--bundle", "no/folder/report.zip").code == 2


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("the value planted-value stands here", "the value *** stands here"),
        ('{"password": "hunter2", "tokens": 5}', '{"password": "***", "tokens": 5}'),
        ("AWS_SECRET_ACCESS_KEY=abc/def next", "AWS_SECRET_ACCESS_KEY=*** next"),
        ("Authorization: Bearer abc.def.ghi", "Authorization: Bearer ***"),
        ("http://me:pw@host:9000/x and http://host:9000", "http://me:***@host:9000/x and http://host:9000"),
        ("kept_tokens=12, stage compress_tokens.tome: token 5", "kept_tokens=12, stage compress_tokens.tome: token 5"),
    ],
)
def test_secrets_are_hidden_and_tokens_of_images_are_not(text: str, hidden: str) -> None:
    assert Hider({"MY_API_KEY": "planted-value", "HOME": "/root"})(text) == hidden


def test_the_bundle_can_be_written_where_the_store_has_nothing(cli: Cli) -> None:
    assert cli("doctor", "--bundle", "report.zip").code in (0, 7)
    assert not Path(".orchestrator").exists()
