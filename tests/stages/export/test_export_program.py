"""`export.program`: the archive runs no code when it is loaded, repeats its bytes, and names no place."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.contract import local_context
from stages.export import program as export
from stages.export.settings import STAGES, ProgramSettings
from stages.models.bundle import fold_bundle, load_bundle
from tests.stages.export.test_export_onnx import make_model


def context_in(folder: Path, model, **settings):
    return replace(local_context(ProgramSettings(**settings), folder=folder, inputs={"model": model}), num_threads=1)


@pytest.fixture(scope="module", params=["vit_micro", "cnn_micro"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model = make_model(request.param, folder / "model")
    return model, export.run(context_in(folder, model, data="digits", verify_samples=16)), folder / "output"


def test_the_program_computes_what_the_model_does_for_any_batch(exported):
    model, result, folder = exported
    assert set(next(spec for spec in STAGES if spec.name == "export.program").metrics) == set(result.metrics)
    assert result.metrics["max_abs_difference"] < 1e-5
    assert result.metrics["size_bytes"] == (folder / "model.pt2").stat().st_size
    plain, loaded = fold_bundle(load_bundle(model)), export.load_program(folder / "model.pt2").module()
    for count in (1, 3, 17):
        images = torch.randn(count, 1, 8, 8)
        torch.testing.assert_close(loaded(images), plain(images), rtol=1e-5, atol=1e-6)


def test_the_archive_holds_json_and_plain_bytes_only(exported):
    _, result, folder = exported
    assert result.metrics["has_pickle"] is False
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        for record in archive.namelist():
            content = archive.read(record)
            assert not content.startswith((b"PK", b"\x80\x02", b"\x80\x05")), record
            if "weight_" not in record:
                for text in (str(folder), str(Path.home()), "site-packages", ".py"):
                    assert text.encode() not in content, record


def test_the_same_weights_give_the_same_bytes(exported, tmp_path):
    model, _, folder = exported
    export.run(context_in(tmp_path, model, data="digits", verify_samples=16))
    for file in ("model.pt2", "export.json"):
        assert (tmp_path / "output" / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("exported", ["cnn_micro"], indirect=True)
def test_an_archive_with_a_pickle_is_never_loaded(exported, tmp_path, monkeypatch):
    model, _, _ = exported
    program = torch.export.export(fold_bundle(load_bundle(model)), (torch.zeros(2, 1, 8, 8),))
    torch.export.save(program, tmp_path / "torch.pt2")
    monkeypatch.setattr(torch, "load", lambda *_args, **_kwargs: pytest.fail("unpickled"))
    with pytest.raises(RuntimeError, match=r"torch\.pt2 holds pickles or compiled code.*sample_inputs"):
        export.load_program(tmp_path / "torch.pt2")


@pytest.mark.parametrize("exported", ["cnn_micro"], indirect=True)
def test_loading_our_own_archive_unpickles_nothing(exported, monkeypatch):
    _, _, folder = exported
    monkeypatch.setattr(torch, "load", lambda *_args, **_kwargs: pytest.fail("unpickled"))
    export.load_program(folder / "model.pt2")


@pytest.mark.parametrize("exported", ["cnn_micro"], indirect=True)
def test_a_program_that_computes_something_else_fails_the_stage(exported, tmp_path, monkeypatch):
    model, _, _ = exported
    real = export.write_program

    def wrong(plain, **arguments):
        with torch.no_grad():
            plain.head.weight.mul_(1.01)
        real(plain, **arguments)
        with torch.no_grad():
            plain.head.weight.div_(1.01)

    monkeypatch.setattr(export, "write_program", wrong)
    with pytest.raises(RuntimeError, match="logits differ from the model's"):
        export.run(context_in(tmp_path, model))


def test_a_fixed_batch_of_one_is_checked_too(tmp_path):
    model = make_model("cnn_micro", tmp_path / "model")
    export.run(context_in(tmp_path, model, dynamic_batch=False, verify_samples=3))
