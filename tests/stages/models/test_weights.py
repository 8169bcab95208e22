"""Weights from elsewhere: by name out of a hub's cache, from files of several makes; what is refused, and in which words."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import stages.ops.torchvision_compat  # noqa: F401 - timm does not import without it
from stages.models.weights import head_tensors, load_named, load_tensors
from stages.models.zoo import build_network, find_architecture
from stages.ops.input_spec import InputSpec
from stages.ops.weights_file import read_weights

TINY = "test_vit.r160_in1k"
COMMIT = "0" * 40


def architecture(name, *, size=160, channels=3, num_classes=1000, arguments=None):
    spec = InputSpec(channels=channels, height=size, width=size, mean=(0.5,) * channels, std=(0.5,) * channels)
    return find_architecture(
        name, arguments or {}, input_spec=spec, class_names=tuple(str(index) for index in range(num_classes))
    )


@pytest.fixture(scope="module")
def trained():
    """A network of timm as if trained: its weights are none that initialisation gives."""
    import timm

    torch.manual_seed(7)
    model = timm.create_model("test_vit")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.fixture
def hub(tmp_path, monkeypatch, trained):
    """The hub's cache as a download leaves it, on a machine without a network."""
    for owner in ("timm", "somebody"):
        repository = tmp_path / "hub" / f"models--{owner}--{TINY}"
        snapshot = repository / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        save_file(trained.state_dict(), snapshot / "model.safetensors")
        described = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": {**trained.pretrained_cfg}}
        (snapshot / "config.json").write_text(json.dumps(described))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", [TINY, f"hf-hub:somebody/{TINY}"])
def test_weights_by_name_come_out_of_the_cache_of_the_hub(hub, trained, name):
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    model = load_named(architecture(name), source=name, head="keep", seed=0).eval()
    assert torch.equal(model(images), trained(images))


def test_a_model_of_a_hub_is_built_again_without_the_hub(hub, monkeypatch):
    """Its description is written down as a name of timm, so whoever gets the artifact needs no network."""
    found = architecture(f"hf-hub:somebody/{TINY}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nowhere")
    assert found.name.startswith("test_vit")
    build_network(found, seed=0)


def test_a_name_without_weights_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="timm has no weights 'none' for test_vit; it has r160_in1k"):
        architecture("test_vit.none")
    with pytest.raises(ValueError, match="no pretrained weights for convnext_atto_rms; "):
        load_named(architecture("convnext_atto_rms"), source="convnext_atto_rms", head="keep", seed=0)
    with pytest.raises(ValueError, match=r"vit_micro is no model of timm.*weights: file"):
        load_named(architecture("vit_micro"), source="vit_micro", head="keep", seed=0)


@pytest.mark.parametrize("wrapping", ["plain", "model", "state_dict", "state_dict_ema", "module.", "_orig_mod."])
def test_a_file_is_read_however_its_training_script_wrapped_it(tmp_path, trained, wrapping):
    state = trained.state_dict()
    if wrapping.endswith("."):
        content = {f"{wrapping}{name}": tensor for name, tensor in state.items()}
    else:
        content = state if wrapping == "plain" else {wrapping: state, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "weights.pth")
    model = load_tensors(architecture(TINY), read_weights(tmp_path / "weights.pth"), head="keep", seed=0, where="it").eval()
    images = torch.randn(1, 3, 160, 160)
    assert torch.equal(model(images), trained(images))


def test_safetensors_give_the_same_as_a_torch_file(tmp_path, trained):
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    one, other = (read_weights(tmp_path / f"weights.{suffix}") for suffix in ("safetensors", "pt"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_position_embeddings_are_resized_to_the_images(trained):
    """160 pixels are 10x10 patches, 96 are 6x6; all else stays as it was."""
    model = load_tensors(architecture(TINY, size=96), trained.state_dict(), head="keep", seed=0, where="it")
    assert model.pos_embed.shape[1] < trained.pos_embed.shape[1]
    assert torch.equal(model.blocks[0].attn.qkv.weight, trained.blocks[0].attn.qkv.weight)
    assert model.eval()(torch.randn(1, 3, 96, 96)).shape == (1, 1000)


def test_grey_images_see_the_sum_of_the_colours(trained):
    model = load_tensors(architecture(TINY, channels=1), trained.state_dict(), head="keep", seed=0, where="it")
    assert torch.allclose(model.patch_embed.proj.weight, trained.patch_embed.proj.weight.sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("name", [TINY, "cnn_micro"])
def test_a_new_head_follows_from_the_seed_and_the_rest_is_kept(trained, name):
    state = trained.state_dict() if name == TINY else build_network(architecture(name), seed=5).state_dict()
    asked = architecture(name, num_classes=7)
    one, same, other = (load_tensors(asked, state, head="new", seed=seed, where="it").state_dict() for seed in (1, 1, 2))
    head = head_tensors(load_tensors(asked, state, head="new", seed=1, where="it"))
    assert head
    for tensor in one:
        assert torch.equal(one[tensor], same[tensor])
        if tensor in head and tensor.endswith("weight"):
            assert one[tensor].shape[0] == 7
            assert not torch.equal(one[tensor], other[tensor])
        elif tensor not in head:
            assert torch.equal(one[tensor], state[tensor])


@pytest.mark.parametrize("name", ["resnet10t", "vit_micro"])
def test_weights_of_another_architecture_are_refused_with_the_names_of_tensors(trained, name):
    with pytest.raises(ValueError, match=r"deit\.pth does not fit .*(blocks|missing|Missing)"):
        load_tensors(architecture(name), trained.state_dict(), head="keep", seed=0, where="deit.pth")


@pytest.mark.parametrize("head", ["keep", "new"])
def test_weights_of_another_architecture_are_told_from_those_of_other_classes(trained, head):
    """Whose classifier has another name, of whose classes nothing is known: a new head would not help."""
    with pytest.raises(ValueError, match=r"deit\.pth does not fit resnet10t: .*[Mm]issing"):
        load_tensors(architecture("resnet10t", num_classes=7), trained.state_dict(), head=head, seed=0, where="deit.pth")
    with pytest.raises(ValueError, match=r"weights of deit\.pth know 1000 classes and the data have 7"):
        load_tensors(architecture(TINY, num_classes=7), trained.state_dict(), head="keep", seed=0, where="deit.pth")


class Dangerous:
    def __reduce__(self):
        return (Path.touch, (Path("came_true"),))


def test_a_pickle_with_code_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Dangerous()}, "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth holds more than tensors \(\S+\), .*refused") as caught:
        read_weights(Path("weights.pth"))
    assert not Path("came_true").exists()
    assert "weights_only" not in str(caught.value), "torch advises to switch the safety off"


@pytest.mark.parametrize("file", ["pytorch_model.bin", "other.bin"])
def test_a_pickle_with_code_in_a_repository_is_refused_and_nothing_of_it_runs(hub, tmp_path, monkeypatch, file):
    """A repository says itself which of its files has the weights."""
    monkeypatch.chdir(tmp_path)
    snapshot = tmp_path / "hub" / f"models--somebody--{TINY}" / "snapshots" / COMMIT
    (snapshot / "model.safetensors").unlink()
    described = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(
        json.dumps({**described, "pretrained_cfg": {**described["pretrained_cfg"], "hf_hub_filename": file}})
    )
    missing = snapshot.parents[1] / ".no_exist" / COMMIT
    missing.mkdir(parents=True)
    for name in ("model.safetensors", "other.safetensors"):
        (missing / name).touch()
    torch.save({"weight": Dangerous()}, snapshot / file)
    with pytest.raises(ValueError, match=rf"hf-hub:somebody/{TINY} holds more than tensors \(\S+\), .*refused") as caught:
        load_named(architecture(TINY), source=f"hf-hub:somebody/{TINY}", head="keep", seed=0)
    assert not Path("came_true").exists()
    assert "weights_only" not in str(caught.value)


def test_the_command_line_that_training_scripts_keep_beside_the_weights_does_no_harm(tmp_path, trained):
    torch.save({"model": trained.state_dict(), "args": argparse.Namespace(epochs=300), "epoch": 3}, tmp_path / "best.pth")
    assert read_weights(tmp_path / "best.pth").keys() == trained.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("weights.pth", b"not a checkpoint", r"weights\.pth.*none of torch's, or damaged"),
        ("weights.pth", b"", r"weights\.pth.*none of torch's, or damaged"),
        ("weights.pth", bytes(range(256)), r"weights\.pth.*none of torch's, or damaged"),
        ("weights.safetensors", b"\x08\0\0\0\0\0\0\0nonsense", r"weights\.safetensors"),
        ("weights.onnx", b"", r"expected one of \.safetensors"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / name)


def test_a_file_without_weights_says_what_was_expected(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "state.pt")
    with pytest.raises(ValueError, match="holds no weights by name; expected tensors at the top, or below one of"):
        read_weights(tmp_path / "state.pt")
