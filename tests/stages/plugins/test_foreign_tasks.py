"""The task of `docs/adding-a-task.md`, copied from the page as it stands: another package's, in one file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import api
from stages import catalog
from stages.models import zoo
from stages.training.tasks.base import find_task

PAGE = (Path(__file__).parents[3] / "docs" / "adding-a-task.md").read_text()
CODE, POINTS, NODES = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL).group(1) for kind in ("python", "toml", "yaml"))
CACHES = (zoo._plugins, catalog._plugin_kinds, catalog.kind_stages)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package as pip would have installed it."""
    (tmp_path / "segmentation.py").write_text(CODE)
    about = tmp_path / "segmentation-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: segmentation\nVersion: 1.0\n")
    points = re.sub(r'project\.entry-points\."([\w.]+)"', r"\1", POINTS).replace('"', "")
    (about / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    for cache in CACHES:
        cache.cache_clear()
    yield tmp_path
    for cache in CACHES:
        cache.cache_clear()


def test_the_task_of_the_page_goes_through_the_stages_that_take_any(plugin, run_text):
    result = run_text(f"version: 1\nname: segment\n{NODES}")
    nodes = result.status.nodes
    assert result.state is api.State.DONE, {name: node.error or node.trace for name, node in nodes.items()}
    assert all(nodes[name].metrics["mean_iou"] > 0.5 for name in ("train", "sparse", "low"))
    assert nodes["sparse"].metrics["sparsity"] > 0.3


def test_describing_the_task_of_the_page_loads_no_torch(plugin):
    code = f"import sys; sys.path.insert(0, {str(plugin)!r}); import segmentation; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_task_whose_package_is_gone_says_what_to_install():
    with pytest.raises(
        ValueError, match=r"unknown task 'segmentation'; known: classification, denoising, image_to_image\. Inst"
    ):
        find_task("segmentation")
