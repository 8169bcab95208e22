"""The code of `docs/library.md` runs as it stands, stays within 15 lines a method, and does what the page says."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
SECTIONS = dict(re.findall(r"^## (\w+):[^`]*```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
START = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1)
MAX_LINES = 15


def run(method: str) -> dict[str, Any]:
    """The names that the first block and a method's block leave."""
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    exec(compile(START, f"{PAGE} (start)", "exec"), names)
    names["before"] = copy.deepcopy(names["model"].state_dict())
    exec(compile(SECTIONS[method], f"{PAGE} ({method})", "exec"), names)
    return names


def test_the_page_has_all_three_methods():
    assert list(SECTIONS) == ["LBC", "LTS", "DiffRate"]
    assert PAGE.read_text().count("```python") == len(SECTIONS) + 1


@pytest.mark.parametrize("method", SECTIONS)
def test_a_method_takes_at_most_fifteen_lines(method):
    assert len([line for line in SECTIONS[method].splitlines() if line.strip()]) <= MAX_LINES


def test_lbc_ends_with_plain_layers_that_are_exactly_two_of_four():
    names = run("LBC")
    model, masks = names["model"], names["masks"]
    assert names["density"] == 0.5
    assert model.state_dict().keys() == names["before"].keys()
    for name, mask in masks.items():
        assert (mask.reshape(-1, 4).sum(1) == 2).all()
        assert not model.get_submodule(name).weight[~mask].any()
    copied = names["make_model"]()
    layers = names["add_scores"](copied, list(masks), pattern=names["pattern"])
    copied.load_state_dict(names["state"])
    assert all(torch.equal(layers[name].mask, mask) for name, mask in masks.items())
    with torch.no_grad():
        assert torch.equal(copied.eval()(names["images"]), model.eval()(names["images"]))


def test_lts_ends_with_frozen_weights_and_folds_to_the_same_outputs():
    names = run("LTS")
    model, plain, images = names["model"], names["plain"], names["images"]
    assert names["freezing"].frozen_fraction > 0.5
    assert plain.state_dict()["blocks.0.mlp.fc1.weight"].unique().numel() <= 2**4
    copied = names["make_model"]()
    names["quantize_model"](copied, images, weight_bits=4, activation_bits=8)
    copied.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model.eval()(images)
        assert torch.equal(plain(images), expected)
        assert torch.equal(copied.eval()(images), expected)


def test_diffrate_ends_with_a_schedule_and_the_weights_that_it_got():
    names = run("DiffRate")
    model, search = names["model"], names["search"]
    kept = names["kept_tokens"](model)
    assert kept == names["counts"]
    assert kept[0] == 17 > kept[-1]
    assert abs(search.shape.macs(kept) / search.target_macs - 1) < 0.05  # one token of one of three blocks costs 0.03
    after = model.state_dict()
    assert after.keys() == names["before"].keys()
    assert all(torch.equal(after[name], names["before"][name]) for name in after)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        assert model.eval()(names["images"]).shape == (32, 10)
