"""`export.packed`: sizes near the theoretical, exact in every value, and nothing damaged is loaded."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.contract import Artifact, local_context
from stages.data.base import load_dataset
from stages.data.settings import DigitsData
from stages.export import packed as export
from stages.export.settings import STAGES, PackedSettings
from stages.models.bundle import ModelBundle, build_bundle, fold_bundle, save_bundle
from stages.models.nm_mask import apply_masks, masked_layers
from stages.models.packed import load_packed, read_description, unpack_tensors, write_packed
from stages.models.token_reduction import apply_schedule
from stages.models.zoo import find_architecture
from stages.ops.nm import magnitude_mask
from stages.ops.pattern import parse_pattern
from stages.ops.tensor_file import read_tensors, write_tensors
from stages.ops.token_budget import TokenSchedule
from stages.quantize.layers import attach_quantizers, choose_layers
from stages.sparsify.layers import select_layers

COMPUTED_BYTES = {
    ("vit_micro", "2:4"): 303_500,
    ("vit_micro", "1:4"): 164_300,
    ("vit_micro", "1:8"): 96_700,
    ("vit_micro", "1:16"): 61_900,
    ("cnn_micro", "2:4"): 64_500,
    ("cnn_micro", "1:4"): 35_100,
    ("cnn_micro", "1:8"): 20_900,
    ("cnn_micro", "1:16"): 13_500,
}
"""Values in 4 bytes and positions in ceil(log2 M) bits, with the header of a plain safetensors file."""


def images(count=64):
    return next(iter(load_dataset(DigitsData()).train.batches(batch_size=count))).images


def noisy_bundle(name: str) -> ModelBundle:
    data = load_dataset(DigitsData())
    bundle = build_bundle(find_architecture(name, {}, input_spec=data.input_spec, class_names=data.class_names), seed=0)
    torch.manual_seed(0)
    for parameter in bundle.model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    return bundle


def masked(bundle: ModelBundle, text: str) -> ModelBundle:
    pattern = parse_pattern(text)
    names = select_layers(bundle.model, pattern=pattern)
    masks = {name: magnitude_mask(bundle.model.get_submodule(name).weight, pattern=pattern) for name in names}
    return apply_masks(bundle, masks, pattern=pattern)


def quantized(bundle: ModelBundle, **choice) -> ModelBundle:
    bundle = attach_quantizers(bundle, images(), layers=choose_layers(bundle.model, images(), **choice), freezes=False)
    bundle.model.eval()
    return bundle


def written(bundle: ModelBundle, path: Path) -> int:
    """Write, read back, compare every tensor and the logits; returns the size."""
    size = write_packed(bundle, path)
    assert size == path.stat().st_size
    plain, loaded = fold_bundle(bundle), load_packed(path)
    expected, found = plain.state_dict(), loaded.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in expected)
    with torch.inference_mode():
        assert torch.equal(loaded(images()), plain(images()))
    assert not loaded.training
    return size


def gzip_size(bundle: ModelBundle, path: Path) -> int:
    write_tensors(path, fold_bundle(bundle).state_dict())
    return len(gzip.compress(path.read_bytes(), 9, mtime=0))


@pytest.mark.parametrize(("name", "text"), list(COMPUTED_BYTES))
def test_sparse_models_take_the_room_of_their_values_and_positions(name, text, tmp_path):
    bundle = masked(noisy_bundle(name), text)
    size = written(bundle, tmp_path / "packed")
    assert size <= COMPUTED_BYTES[name, text]
    assert size < gzip_size(bundle, tmp_path / "dense")
    entries = {entry["name"]: entry for entry in read_description(tmp_path / "packed")["tensors"]}
    assert {key for key, entry in entries.items() if entry.get("n_m") == text} == {
        f"{layer}.weight" for layer in masked_layers(bundle.model)
    }


@pytest.mark.parametrize(("bits", "limit"), [(4, 96_000), (2, 58_000)])
def test_quantized_vit_takes_the_room_of_its_bits(bits, limit, tmp_path):
    bundle = quantized(noisy_bundle("vit_micro"), weight_bits=bits, activation_bits=4, end_layers="8bit")
    assert written(bundle, tmp_path / "packed") <= limit


@pytest.mark.parametrize(("bits", "limit"), [(4, 18_000), (2, 10_000), (3, 14_000), (8, 32_000)])
def test_quantized_cnn_takes_the_room_of_its_bits_in_both_forms(bits, limit, tmp_path):
    bundle = quantized(noisy_bundle("cnn_micro"), weight_bits=bits, activation_bits=4)
    assert written(bundle, tmp_path / "packed") <= limit
    grids = [entry["grid"] for entry in read_description(tmp_path / "packed")["tensors"] if "grid" in entry]
    assert {grid["form"] for grid in grids} == {"normalized", "dequantized"}


@pytest.mark.parametrize("name", ["cnn_micro", "vit_micro"])
def test_masks_and_bits_together_store_levels_of_kept_weights_only(name, tmp_path):
    bundle = quantized(masked(noisy_bundle(name), "2:4"), weight_bits=4, activation_bits=4)
    size = written(bundle, tmp_path / "packed")
    alone = written(quantized(noisy_bundle(name), weight_bits=4, activation_bits=4), tmp_path / "alone")
    sparse_weights = sum(mask.mask.numel() for mask in masked_layers(bundle.model).values())
    # 4 bits a weight become 2 of 4 weights of 4 bits and 3 bits for the positions: 11/16 of them.
    assert size - alone == pytest.approx(-sparse_weights * 4 / 8 * 5 / 16, abs=200)


def test_a_model_with_masks_bits_and_fewer_tokens_comes_back_whole(tmp_path):
    """The three transforms together: the loader makes the structure of each, the file holds only what acts."""
    bundle = quantized(masked(noisy_bundle("vit_micro"), "2:4"), weight_bits=4, activation_bits=4)
    bundle = apply_schedule(bundle, TokenSchedule(prune=(15, 13, 11, 9), merge=(14, 12, 10, 8)))
    assert written(bundle, tmp_path / "packed") < 64_500


def test_a_dense_model_is_stored_as_it_is(tmp_path):
    bundle = noisy_bundle("cnn_micro")
    dense = write_tensors(tmp_path / "dense", bundle.model.state_dict())
    assert written(bundle, tmp_path / "packed") <= dense


def test_a_block_with_fewer_than_n_weights_comes_back(tmp_path):
    """Masks keep at most N: a block may be empty."""
    bundle = noisy_bundle("cnn_micro")
    layer = bundle.model.get_submodule("blocks.1.0")
    mask = magnitude_mask(layer.weight, pattern=parse_pattern("2:4"))
    mask[0], mask[1, :2] = False, False
    written(apply_masks(bundle, {"blocks.1.0": mask}, pattern=parse_pattern("2:4")), tmp_path / "packed")


def test_weights_off_their_grid_are_stored_as_they_are(tmp_path):
    """A mask with an empty block under a grid without a zero: no level fits the filled-up positions."""
    bundle = noisy_bundle("cnn_micro")
    layer = bundle.model.get_submodule("blocks.1.0")
    mask = magnitude_mask(layer.weight, pattern=parse_pattern("2:4"))
    mask[0] = False
    bundle = quantized(
        apply_masks(bundle, {"blocks.1.0": mask}, pattern=parse_pattern("2:4")), weight_bits=2, activation_bits=4
    )
    written(bundle, tmp_path / "packed")
    entries = {entry["name"]: entry for entry in read_description(tmp_path / "packed")["tensors"]}
    assert "grid" not in entries["blocks.1.0.weight"]
    assert "grid" in entries["blocks.2.0.weight"]


def test_the_documented_layout_can_be_read_without_this_package(tmp_path):
    """What docs/formats.md says, in plain Python, for one sparse quantized layer."""
    import zlib

    bundle = quantized(masked(noisy_bundle("cnn_micro"), "2:4"), weight_bits=4, activation_bits=8, form="dequantized")
    write_packed(bundle, tmp_path / "packed")
    tensors = read_tensors(tmp_path / "packed")
    described = json.loads(zlib.decompress(bytes(tensors["description"].tolist())))
    stream, numbers = bytes(tensors["codes"].tolist()), dict.fromkeys(tensors, 0)
    at = 0

    def codes(count, bits):
        nonlocal at
        size = -(-count * bits // 8)
        whole = int.from_bytes(stream[at : at + size], "little")
        at += size
        return [(whole >> (index * bits)) & ((1 << bits) - 1) for index in range(count)]

    from itertools import combinations

    order = sorted(combinations(range(4), 2), key=lambda positions: positions[::-1])
    for entry in described["tensors"]:
        shape, key = entry["shape"], f"numbers.{entry['dtype']}"
        count = torch.Size(shape).numel()
        kept = [order[number] for number in codes(count // 4, 3)] if "n_m" in entry else None
        if kept is not None:
            count //= 2
        if "grid" in entry:
            lower, upper = tensors[key][numbers[key] : numbers[key] + 2].tolist()
            numbers[key] += 2
            values = [lower + level / 15 * (upper - lower) for level in codes(count, 4)]
        else:
            values = tensors[key][numbers[key] : numbers[key] + count].tolist()
            numbers[key] += count
        expected = fold_bundle(bundle).state_dict()[entry["name"]].double()
        if kept is not None:
            out, inputs, height, width = shape
            rows = [0.0] * (count * 2)
            for block, positions in enumerate(kept):
                for place, position in enumerate(positions):
                    rows[block * 4 + position] = values[block * 2 + place]
            found = torch.tensor(rows, dtype=torch.float64).reshape(out, height, width, inputs).permute(0, 3, 1, 2)
        else:
            found = torch.tensor(values, dtype=torch.float64).reshape(shape)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert at == len(stream)


@pytest.fixture
def packed_file(tmp_path) -> Path:
    write_packed(masked(noisy_bundle("cnn_micro"), "1:4"), tmp_path / "packed")
    return tmp_path / "packed"


def test_the_same_bundle_gives_the_same_bytes(packed_file, tmp_path):
    write_packed(masked(noisy_bundle("cnn_micro"), "1:4"), tmp_path / "again")
    assert packed_file.read_bytes() == (tmp_path / "again").read_bytes()


def test_damaged_files_are_refused(packed_file, tmp_path):
    tensors = {name: tensor.clone() for name, tensor in read_tensors(packed_file).items()}

    def broken(**changes) -> Path:
        write_tensors(tmp_path / "broken", {**tensors, **changes})
        return tmp_path / "broken"

    with pytest.raises(ValueError, match="ends early"):
        unpack_tensors(broken(codes=tensors["codes"][:-1]))
    with pytest.raises(ValueError, match=r"streams numbers\.F32 hold more"):
        unpack_tensors(broken(**{"numbers.F32": torch.cat([tensors["numbers.F32"], torch.zeros(1)])}))
    with pytest.raises(ValueError, match="description of the packed model cannot be read"):
        load_packed(broken(description=tensors["description"][5:].clone()))
    write_tensors(tmp_path / "other", {"weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="is no packed model: it has no tensor 'description'; found: weight"):
        load_packed(tmp_path / "other")


def context_in(folder: Path, bundle: ModelBundle, **settings):
    save_bundle(bundle, folder / "model")
    model = Artifact(kind="model", key="0" * 64, files={path.name: path for path in (folder / "model").iterdir()})
    return replace(local_context(PackedSettings(**settings), folder=folder, inputs={"model": model}), num_threads=1)


def test_the_stage_reports_what_it_declares_and_what_the_file_is(tmp_path):
    context = context_in(tmp_path, masked(noisy_bundle("cnn_micro"), "1:8"), data="digits", verify_samples=16)
    result = export.run(context)
    declared = next(spec for spec in STAGES if spec.name == "export.packed").metrics
    assert set(declared) <= set(result.metrics)
    assert result.metrics["max_abs_difference"] == 0
    assert result.metrics["size_bytes"] == (context.output / "packed.safetensors").stat().st_size
    assert result.metrics["size_bytes"] < result.metrics["gzip_size_bytes"] < result.metrics["dense_size_bytes"]
    assert result.metrics["num_sparse_tensors"] == 2
    assert json.loads((context.output / "export.json").read_text())["transforms"] == ["nm_mask"]


def test_a_value_lost_in_packing_fails_the_stage(tmp_path, monkeypatch):
    context = context_in(tmp_path, masked(noisy_bundle("cnn_micro"), "1:8"))
    real = export.unpack_tensors

    def lossy(path):
        found = real(path)
        found["blocks.1.0.weight"].view(-1)[found["blocks.1.0.weight"].view(-1).nonzero()[0]] *= 1 + 1e-6
        return found

    monkeypatch.setattr(export, "unpack_tensors", lossy)
    with pytest.raises(RuntimeError, match=r"blocks\.1\.0\.weight is not the model's after unpacking"):
        export.run(context)
