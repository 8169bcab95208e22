"""The tensor file is a safetensors file, the same bytes for the same tensors, written without a joint copy."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from stages.ops.tensor_file import DTYPES, read_metadata, read_tensors, write_tensors

TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable()),
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
    max_size=6,
)


def make(entries):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randint(0, 2, shape, generator=generator).to(DTYPES[dtype]) for name, (dtype, shape) in entries.items()}


@given(TENSORS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_tensors_come_back_and_the_library_agrees(tmp_path, entries):
    tensors = make(entries)
    path = tmp_path / "file.safetensors"
    size = write_tensors(path, tensors)
    first_bytes = path.read_bytes()
    assert size == len(first_bytes)
    write_tensors(path, dict(reversed(tensors.items())))
    assert path.read_bytes() == first_bytes
    ours, theirs = read_tensors(path), load_file(path)
    assert list(ours) == sorted(tensors)
    assert theirs.keys() == tensors.keys()
    for name, tensor in tensors.items():
        for read in (ours[name], theirs[name]):
            assert read.dtype == tensor.dtype
            assert read.shape == tensor.shape
            assert torch.equal(read, tensor)


def test_strided_tensors_are_written_in_row_major_order(tmp_path):
    strided = torch.arange(12.0).reshape(3, 4).t()
    write_tensors(tmp_path / "f", {"x": strided})
    assert torch.equal(read_tensors(tmp_path / "f")["x"], strided)


def test_header_keys_are_sorted_and_buffers_aligned(tmp_path):
    write_tensors(tmp_path / "f", {"b": torch.ones(3, dtype=torch.bool), "z": torch.ones(3), "a": torch.ones(5).half()})
    raw = (tmp_path / "f").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert list(header) == ["a", "b", "z"]
    assert all((8 + length + header[name]["data_offsets"][0]) % size == 0 for name, size in (("a", 2), ("b", 1), ("z", 4)))


def test_metadata_is_kept(tmp_path):
    write_tensors(tmp_path / "f", {"x": torch.ones(1)}, metadata={"made_by": "test"})
    assert read_metadata(tmp_path / "f") == {"made_by": "test"}


def test_overlapping_tensors_are_refused_by_name(tmp_path):
    """Writing both would silently untie them."""
    whole = torch.arange(10.0)
    with pytest.raises(ValueError, match=r"'(part|whole)' and '(part|whole)' share memory"):
        write_tensors(tmp_path / "f", {"whole": whole, "part": whole[2:4]})


def test_other_element_types_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"'c'.*complex64.*supported: F64"):
        write_tensors(tmp_path / "f", {"c": torch.zeros(2, dtype=torch.complex64)})


@pytest.mark.parametrize("keep", [4, 40, -1])
def test_a_file_cut_short_is_refused(tmp_path, keep):
    write_tensors(tmp_path / "f", {"x": torch.ones(10)})
    (tmp_path / "f").write_bytes((tmp_path / "f").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"whole safetensors file|cut short"):
        read_tensors(tmp_path / "f")


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(tmp_path):
    write_tensors(tmp_path / "f", {"x": torch.ones(4)})
    read_tensors(tmp_path / "f")["x"].zero_()
    assert torch.equal(read_tensors(tmp_path / "f")["x"], torch.ones(4))
