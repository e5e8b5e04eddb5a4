"""The papers' networks: sizes, and parameters that follow from the seed alone."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from polymask.nets import MLP, NETS, VGG, AlexNet, ConvNet, LeNet, ResNet18, build_net
from polymask.nets.by_name import build_model

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 32)]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reads_the_example_it_was_built_for(name: str, shape: tuple[int, ...]) -> None:
    least = {"vgg": 16, "alexnet": 20}.get(name, 0)
    if min(shape[1:]) < least:
        with pytest.raises(ValueError, match=f"{least} x {least} or more, found 8 x 8"):
            build_net(name, shape, 7)
        return
    how = {"width": 4} if name == "resnet18" else {}
    y = build_net(name, shape, 7, **how)(torch.rand(2, *shape))
    assert y.shape == (2, 7)
    assert y.isfinite().all()


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_parameters_follow_from_the_seed(name: str) -> None:
    before = torch.get_rng_state()
    one = build_net(name, (1, 8, 8), 4, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    same, other = build_net(name, (1, 8, 8), 4, seed=1), build_net(name, (1, 8, 8), 4, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_sizes_are_the_published_ones() -> None:
    def weights(net: torch.nn.Module) -> int:
        return sum(p.numel() for p in net.parameters() if p.ndim > 1)

    assert weights(ResNet18(outputs=5, width=20)) == 1_090_940  # SupSup's count for the narrow network
    assert weights(ResNet18(outputs=10)) == 11_164_352
    assert weights(MLP(784, (300, 100), 10)) == 266_200  # LeNet-300-100
    assert weights(AlexNet(outputs=1)) - 2048 == 16 * 3 * 64 + 9 * 64 * 128 + 4 * 128 * 256 + 2048 * (4 * 256 + 2048)
    assert weights(LeNet(outputs=1)) - 500 == 2_986_500  # APD's count
    tiny = LeNet(outputs=5, widths=(160,) * 4, hidden=(640, 640), pool=False, size=64)
    assert tiny(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    assert weights(tiny) == 9 * 160 * (3 + 3 * 160) + 640 * (160 * 16 + 640 + 5)
    assert [m.out_channels for m in VGG().modules() if isinstance(m, torch.nn.Conv2d)] == [64, 64, 64, 64, 128, 128]


def test_norm_adds_batchnorm() -> None:
    kinds = [type(m).__name__ for m in MLP(4, (3, 3), 2, norm=True).body]
    assert kinds == ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU"]
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in VGG(norm=True).modules())


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="there are mlp, convnet, lenet, alexnet, vgg, resnet18"):
        build_net("lstm", (3,), 2)
    with pytest.raises(ValueError, match=r"reads images \(C, H, W\), found examples of shape \(5,\)"):
        build_net("convnet", (5,), 2)
    with pytest.raises(ValueError, match="at least 8 pixels a side"):
        ConvNet(widths=(4, 4, 4), size=4)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages are installed, with a timm of two networks that needs another package, which is broken."""
    place = tmp_path / "site-packages"
    (place / "timm" / "models").mkdir(parents=True)
    (place / "vision").mkdir()
    (place / "timm" / "__init__.py").write_text("import vision\n")
    (place / "timm" / "models" / "nets.py").write_text(
        "".join(f"@register_model\ndef {name}(pretrained=False):\n    ...\n\n" for name in ("resnet18d", "tiny_vit"))
    )
    (place / "vision" / "__init__.py").write_text("raise RuntimeError('operator vision::nms does not exist')\n")
    monkeypatch.syspath_prepend(place)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "vision")]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    return place


def test_a_misspelt_network_gets_near_names_before_timm_is_imported(packages: Path) -> None:
    with pytest.raises(ValueError, match=r"found 'resnet19': did you mean resnet18\?$"):
        build_model("resnet19", (3, 8, 8), 2)
    with pytest.raises(ValueError, match=r"found 'timm/tiny_vlt': did you mean tiny_vit"):
        build_model("timm/tiny_vlt", (3, 8, 8), 2)
    assert "timm" not in sys.modules


def test_an_import_of_timm_that_fails_for_another_package_names_that_one(packages: Path) -> None:
    with pytest.raises(RuntimeError, match=r"timm, found that vision cannot be imported \(operator vision::nms"):
        build_model("resnet18d", (3, 8, 8), 2)
    (packages / "timm" / "__init__.py").write_text("import vision_that_is_not_there\n")
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match=r"it needs the package vision_that_is_not_there.*polymask\[vision\]"):
        build_model("tiny_vit", (3, 8, 8), 2)


def test_a_part_of_transformers_that_cannot_be_imported_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late:
        """A package whose parts are imported when they are asked for."""

        def __getattr__(self, name: str) -> Any:
            raise ModuleNotFoundError(f"Could not import module {name!r}") from RuntimeError("operator is missing")

    monkeypatch.setitem(sys.modules, "transformers", Late())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"cannot be imported \(operator is missing\): install "):
        build_model(str(tmp_path), None, 2)


@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_a_network_whose_file_cannot_be_imported_is_named_too(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Kind:
        @staticmethod
        def made(*args: Any, **how: Any) -> Any:
            raise ModuleNotFoundError("Could not import module 'Bert'") from RuntimeError("operator is missing")

        from_pretrained = from_config = made

    class Config:
        @staticmethod
        def from_pretrained(*args: Any, **how: Any) -> Any:
            return None

    parts = SimpleNamespace(AutoModelForSequenceClassification=Kind, AutoConfig=Config)
    monkeypatch.setitem(sys.modules, "transformers", parts)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"cannot be imported \(operator is missing\): install "):
        build_model(str(tmp_path), None, 2, weights=weights)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A folder of transformers with a small model of three classes."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=16, num_labels=3, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_classifier_of_other_classes_gives_its_body(classifier: Path) -> None:
    same, other = (build_model(str(classifier), None, n, weights="pretrained").state_dict() for n in (3, 5))
    assert other["classifier.weight"].shape == (5, 8)
    for name in same.keys() - {"classifier.weight", "classifier.bias"}:
        assert torch.equal(same[name], other[name])


@pytest.mark.parametrize("weights", ["random", "pretrained"])
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model_type", "none", "does not recognize"),
        ("model_type", "vit", "Unrecognized configuration"),
        ("hidden_size", "x", "hidden_size"),
        ("num_attention_heads", 3, "not a multiple"),
    ],
)
def test_a_folder_of_no_such_model_gets_one_sentence(
    key: str, value: Any, said: str, weights: str, classifier: Path
) -> None:
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ValueError, match=rf"^expected a folder of transformers.*none can be made: .*{said}") as error:
        build_model(str(classifier), None, 2, weights=weights)
    assert "\n" not in str(error.value)


def test_weights_of_other_sizes_or_damaged_ones_get_one_sentence(classifier: Path) -> None:
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps({**config, "hidden_size": 16}))
    with pytest.raises(ValueError, match=r"none can be made: \d+ tensors have other sizes than its configuration says"):
        build_model(str(classifier), None, 2, weights="pretrained")
    (classifier / "config.json").write_text(json.dumps(config))
    with (classifier / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"^expected a folder of transformers.*none can be made: "):
        build_model(str(classifier), None, 2, weights="pretrained")


@pytest.mark.parametrize("how", [{"widths": [-1]}, {"pool": "maybe"}])
def test_a_conv_net_of_other_than_numbers_is_refused(how: dict[str, Any], request: pytest.FixtureRequest) -> None:
    if "pool" in how and not request.config.getoption("untyped"):
        pytest.skip("annotations are checked, and refuse it first")
    with pytest.raises(ValueError, match="expected widths of 1 or more, and pool as true or false, found"):
        build_net("convnet", (1, 8, 8), 2, **how)


def test_without_timm_a_misspelt_network_of_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("polymask.nets.by_name.timm_source", lambda: "")
    with pytest.raises(ModuleNotFoundError, match=r"neither: did you mean resnet18\? For timm's, pip install '"):
        build_model("resnet19", (3, 8, 8), 2)
