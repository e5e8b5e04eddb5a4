"""The papers' networks: sizes, and parameters that follow from the seed alone."""

from __future__ import annotations

import pytest
import torch

from polymask.nets import MLP, NETS, VGG, AlexNet, ConvNet, LeNet, ResNet18, build_net

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
