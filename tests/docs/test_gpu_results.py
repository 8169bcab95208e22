"""What was measured on a GPU comes to the results page with device and date; what was not, says so."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_has_what_was_measured_with_device_and_date_and_says_what_was_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import results

    monkeypatch.delitem(sys.modules, "results")
    nothing = results.gpu_tables(tmp_path)
    assert nothing.count("| not measured |") == 5
    assert "## On a GPU" in (ROOT / "docs" / "results.md").read_text()
    found = {"device": "NVIDIA X", "date": "2026-01-02", "torch": "2.13.0"}
    rows = [{"what": "qkv", "speed": 1.5}, {"what": "fc1", "left_out": "no kernel"}]
    (tmp_path / "gpu.json").write_text(json.dumps({**found, "sections": {"sparse": rows}}))
    page = results.gpu_tables(tmp_path)
    assert page.count("| not measured |") == 4
    assert "beside dense float16: NVIDIA X, 2026-01-02, torch 2.13.0" in page
    assert "| qkv | 1.5 |  |\n| fc1 |  | no kernel |" in page
