"""What is typed about artifacts: copying out, names, pins, verifying, importing, and gc."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_calls import Cli, has_started, spawn, wait_until

STORE = Path(".orchestrator")
ALL_AT_ONCE = ("--keep-days", "0", "--keep-runs", "0", "--grace", "0s")


def keys(cli: Cli) -> dict[str, str]:
    """Key of each artifact by its label."""
    listed = cli("artifacts", "ls", "--json").document["artifacts"]
    return {artifact["label"]: artifact["key"] for artifact in listed}


def blob_of(cli: Cli, key: str) -> Path:
    files = cli("show", key, "--json").document["artifact"]["files"]
    digest = files["value.json"]["digest"]
    return STORE / "blobs" / digest[:2] / digest


def damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(bytes(reversed(path.read_bytes())))


def test_a_name_stands_wherever_a_key_does(cli: Cli, finished: str) -> None:
    known = keys(cli)
    assert cli("artifacts", "promote", known["first"], "base").out == "base@1\n"
    assert cli("artifacts", "promote", known["last"], "base", "--note", "better").out == "base@2\n"
    again = cli("artifacts", "promote", "base@2", "base")
    assert again.out == "base@2\n"
    assert "already" in again.err
    assert cli("show", "base", "--json").document["artifact"]["key"] == known["last"]
    assert cli("show", "base@1", "--json").document["artifact"]["key"] == known["first"]
    assert cli("artifacts", "get", "base@1", "out").code == 0
    assert json.loads(Path("out/value.json").read_text())["value"] == 3
    table = cli("artifacts", "names").out
    assert f"base@2  {known['last'][:8]}" in table
    assert "better" in table
    unknown = cli("show", "base@3")
    assert unknown.code == 2


def test_a_name_whose_artifact_is_gone_says_so(cli: Cli, finished: str) -> None:
    cli("artifacts", "promote", keys(cli)["first"], "base")
    shutil.rmtree(STORE / "artifacts")
    assert "GONE" in cli("artifacts", "names").out
    answer = cli("show", "base")
    assert answer.code == 2
    assert "base@1 means artifact" in answer.err
    assert cli("artifacts", "names", "--json").document["names"][0]["whole"] is False


def test_pins_are_listed_and_taken_away(cli: Cli, finished: str) -> None:
    key = keys(cli)["first"]
    assert cli("artifacts", "pin", key[:8], "--note", "for Ann").code == 0
    assert "for Ann" in cli("artifacts", "names").out
    assert cli("artifacts", "unpin", key[:8]).code == 0
    answer = cli("artifacts", "unpin", key[:8])
    assert answer.code == 2
    assert "is not pinned" in answer.err


def test_a_name_is_taken_away_after_a_preview(cli: Cli, finished: str) -> None:
    """Nobody loses a name to a typing error, and gc may have the artifact afterwards."""
    first, last = keys(cli)["first"], keys(cli)["last"]
    for key in (first, last):
        cli("artifacts", "promote", key, "base")
    shown = cli("artifacts", "unname", "base")
    assert "base@1" in shown.out
    assert "base@2" in shown.out
    assert "--apply" in shown.err
    assert len(cli("artifacts", "names", "--json").document["names"]) == 2
    assert cli("artifacts", "unname", "base@1", "--apply", "--json").document["removed"] == ["base@1"]
    assert [name["version"] for name in cli("artifacts", "names", "--json").document["names"]] == [2]
    assert cli("artifacts", "unname", "base", "--apply").code == 0
    unknown = cli("artifacts", "unname", "base@2", "--apply")
    assert unknown.code == 2
    assert 'no name "base@2"' in unknown.err


def test_get_overwrites_only_when_forced_and_follows_no_link(cli: Cli, finished: str, tmp_path: Path) -> None:
    """A link in the folder would let the copy overwrite a file somewhere else."""
    key = keys(cli)["first"]
    (tmp_path / "precious").write_text("precious")
    Path("out").mkdir()
    Path("out/value.json").symlink_to(tmp_path / "precious")
    assert cli("artifacts", "get", key, "out").code == 2
    assert cli("artifacts", "get", key, "out", "--force").code == 0
    assert (tmp_path / "precious").read_text() == "precious"
    assert not Path("out/value.json").is_symlink()
    assert json.loads(Path("out/value.json").read_text())["value"] == 3


def test_a_damaged_artifact_leaves_nothing_at_its_destination(cli: Cli, finished: str) -> None:
    key = keys(cli)["first"]
    damage(blob_of(cli, key))
    answer = cli("artifacts", "get", key, "deep/out")
    assert answer.code == 5
    assert not Path("deep/out").exists()
    assert list(Path("deep").iterdir()) == []


def test_verify_finds_damage_sets_it_aside_and_exits_with_5(cli: Cli, finished: str) -> None:
    known = keys(cli)
    assert cli("artifacts", "verify", "--all").code == 0
    damage(blob_of(cli, known["first"]))
    blob_of(cli, known["last"]).unlink()
    whole = cli("artifacts", "verify", known["middle[value=1]"])
    assert whole.code == 0
    answer = cli("artifacts", "verify", "--all", "--json")
    assert answer.code == 5
    found = {damage["key"]: damage["what"] for damage in answer.document["damaged"]}
    assert found == {known["first"]: "value.json is damaged", known["last"]: "value.json is missing"}
    assert answer.document["verified"] == 2
    assert keys(cli).keys() == {"middle[value=1]", "middle[value=2]"}
    assert cli("artifacts", "verify", "--all").code == 0
    assert cli("submit", "chain.yaml", "--executor", "inline", "-q").code == 0
    assert cli("artifacts", "verify", "--all").code == 0


def test_verify_finds_metrics_that_were_changed_by_hand(cli: Cli, finished: str) -> None:
    """A better accuracy written into a record must not pass."""
    key = keys(cli)["first"]
    record = STORE / "artifacts/probe.echo" / key / "record.json"
    content = json.loads(record.read_text())
    content["metrics"]["value"] = 0.99
    record.write_text(json.dumps(content))
    answer = cli("artifacts", "verify", key)
    assert answer.code == 5
    assert "do not match the digest" in answer.out


def test_a_hostile_record_is_named_by_verify_and_writes_nothing_outside(cli: Cli, finished: str, tmp_path: Path) -> None:
    key = keys(cli)["first"]
    record = STORE / "artifacts/probe.echo" / key / "record.json"
    content = json.loads(record.read_text())
    content["files"] = {"../../escaped": content["files"]["value.json"]}
    record.write_text(json.dumps(content))
    answer = cli("artifacts", "get", key, "a/b")
    assert answer.code == 2
    assert not list(tmp_path.rglob("escaped"))
    answer = cli("artifacts", "verify", key)
    assert answer.code == 5
    assert "could lead out of a folder" in answer.out


def test_verify_wants_to_know_what(cli: Cli) -> None:
    assert cli("artifacts", "verify").code == 2
    assert cli("artifacts", "verify", "abc", "--all").code == 2


def test_gc_previews_first_and_a_plan_after_it_misses_exactly_what_went(cli: Cli, finished: str) -> None:
    """The preview is what people decide by."""
    known = keys(cli)
    assert "0 artifacts" in cli("gc").out, "all of a recent run is kept"
    cli("artifacts", "promote", known["middle[value=2]"], "middle-two")
    preview = cli("gc", *ALL_AT_ONCE, "--json").document
    assert preview["applied"] is False
    assert {artifact["label"] for artifact in preview["artifacts"]} == {"middle[value=1]", "last"}
    assert keys(cli) == known, "a preview changes nothing"
    applied = cli("gc", *ALL_AT_ONCE, "--apply", "--json").document
    assert set(applied["removed"]["artifacts"]) == {artifact["key"] for artifact in preview["artifacts"]}
    assert applied["removed"]["freed_bytes"] == preview["freed_bytes"]
    nodes = cli("plan", "chain.yaml", "--json").document["nodes"]
    statuses = {node["label"]: node["status"] for node in nodes}
    assert statuses == {"first": "HIT", "middle[value=1]": "RUN", "middle[value=2]": "HIT", "last": "RUN"}
    assert cli("gc", *ALL_AT_ONCE, "--json").document["artifacts"] == []
    assert cli("submit", "chain.yaml", "--executor", "inline", "-q").code == 0
    assert keys(cli) == known


def test_gc_keeps_within_a_budget_and_says_when_it_cannot(cli: Cli, finished: str) -> None:
    assert cli("gc", "--budget", "1MiB", "--grace", "0s", "--json").document["artifacts"] == []
    cli("artifacts", "pin", keys(cli)["last"])
    answer = cli("gc", "--budget", "1B", "--grace", "0s")
    assert "warning" in answer.err
    assert "more than the budget" in answer.err


def test_gc_keeps_what_a_search_has_found_and_lets_the_other_trials_go(cli: Cli) -> None:
    """The result of a week's search would go with its losers."""
    Path("search.yaml").write_text(
        "version: 1\nname: search\nnodes:\n  base: {stage: probe.echo, params: {value: 1}}\n  search:\n    sweep:\n"
        "      sampler: grid\n      objectives: {try.value: maximize}\n      space: {try.value: {choice: [1, 2, 3]}}\n"
        "    nodes:\n      try: {stage: probe.echo, inputs: {inputs: [base]}}\n"
        "  after: {stage: probe.echo, inputs: {inputs: [search.best.try]}}\n"
    )
    answer = cli("submit", "search.yaml", "--executor", "inline", "-q")
    assert answer.code == 0, answer.err
    assert len(keys(cli)) == 6
    assert cli("gc", *ALL_AT_ONCE, "--apply").code == 0
    left = keys(cli)
    assert len(left) == 3, left
    assert "base" in left
    assert "search" in left
    assert cli("gc", *ALL_AT_ONCE, "--sweeps", "--apply").code == 0
    assert keys(cli) == {}


def test_gc_beside_a_run_leaves_it_what_it_needs(cli: Cli) -> None:
    """A run of another process would have to make its inputs again in the middle of the night."""
    process = spawn("submit", "slow.yaml", "--executor", "inline")
    try:
        wait_until(lambda: has_started("wait"))
        refused = cli("gc", *ALL_AT_ONCE, "--apply")
        assert refused.code == 2
        assert "while nothing runs" in refused.err
        answer = cli(
            "gc", "--keep-days", "0", "--keep-runs", "0", "--grace", "10m", "--apply", "--runs-older-than", "0s", "--json"
        )
        assert answer.document["artifacts"] == []
        assert answer.document["runs"] == []
        assert answer.document["kept"] == {"of a running run": 1}
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert cli("gc", *ALL_AT_ONCE, "--json").document["kept"] == {}


def test_gc_takes_old_runs_only_when_asked(cli: Cli, finished: str) -> None:
    cli("gc", *ALL_AT_ONCE, "--apply")
    assert [run["id"] for run in cli("ls", "--json").document["runs"]] == [finished]
    assert cli("status", finished).code == 0
    assert cli("gc", "--runs-older-than", "90d", "--json").document["runs"] == []
    answer = cli("gc", "--runs-older-than", "0s", "--apply", "--json")
    assert answer.document["runs"] == [finished]
    assert cli("ls", "--json").document["runs"] == []
    assert list((STORE / "runs").iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--budget", "20"], ["--grace", "soon"], ["--runs-older-than", "x"], ["--keep-days", "-1"]]
)
def test_gc_refuses_what_it_cannot_read(cli: Cli, arguments: list[str]) -> None:
    answer = cli("gc", *arguments)
    assert answer.code == 2
    assert answer.err.startswith("error: ")


def bundle(folder: Path) -> Path:
    """A model folder as `save_bundle` writes it, without torch."""
    folder.mkdir()
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    description = {"format": 1, "architecture": {"builder": "own"}, "transforms": [], "tied": {}}
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def test_an_imported_model_is_known_by_its_content_and_kept(cli: Cli) -> None:
    bundle(Path("mine"))
    first = cli("artifacts", "import", "mine", "--name", "my-model", "--json").document
    assert first["new"]
    assert first["name"] == "my-model@1"
    shutil.copytree("mine", "copy")
    again = cli("artifacts", "import", "copy", "--json").document
    assert (again["key"], again["new"]) == (first["key"], False)
    assert Path("mine/model.json").exists()
    assert cli("artifacts", "get", "my-model", "out").code == 0
    assert Path("out/weights.safetensors").read_bytes() == Path("mine/weights.safetensors").read_bytes()
    assert cli("artifacts", "verify", "my-model").code == 0
    assert cli("gc", *ALL_AT_ONCE, "--json").document["artifacts"] == []
    assert "import.model" in cli("show", "my-model").out
    Path("tune.yaml").write_text(
        "version: 1\nname: tune\nnodes:\n  tuned: {stage: finetune.classifier, inputs: {model: 'artifact:my-model'},"
        " params: {data: digits}}\n"
    )
    planned = {node["label"]: node for node in cli("plan", "tune.yaml", "--json").document["nodes"]}
    assert (planned["artifact:my-model"]["status"], planned["artifact:my-model"]["key"]) == ("HIT", first["key"])
    assert planned["tuned"]["parents"] == ["artifact:my-model"]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / "model.json").unlink(), "model.json is no file"),
        (shutil.rmtree, "model.json is no file"),
        (lambda folder: (folder / "model.json").write_text('{"format": 2}'), "has format 2"),
        (lambda folder: (folder / "model.json").write_text('{"format": NaN}'), "NaN is no number"),
        (lambda folder: (folder / "model.json").write_text("[" * 100_000), "is no JSON"),
        (lambda folder: (folder / "model.json").write_text('{"format": 1}'), "has no architecture"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"\xff" * 64), "no whole safetensors file"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"\x80\x04pickle"), "no whole safetensors file"),
        (lambda folder: (folder / "model.json").rename("m").touch() or (folder / "model.json").symlink_to("../m"), "is a link"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_with_its_reason(cli: Cli, harm, reason: str) -> None:
    harm(bundle(Path("mine")))
    answer = cli("artifacts", "import", "mine")
    assert answer.code == 2
    assert reason in answer.err
    assert cli("artifacts", "ls").out == ""


def test_these_commands_need_neither_torch_nor_ray(cli: Cli, finished: str) -> None:
    bundle(Path("mine"))
    for arguments in (
        ["gc"], ["artifacts", "verify", "--all"], ["artifacts", "names"], ["artifacts", "import", "mine"],
        ["artifacts", "pin", keys(cli)["first"]],
    ):  # fmt: skip
        code = f"import sys, orchestrator.cli; orchestrator.cli.main({arguments!r}); print('MODULES', *sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not {"torch", "ray", "numpy"} & set(done.stdout.rpartition("MODULES")[2].split()), arguments
