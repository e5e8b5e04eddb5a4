"""Small networks, each with one thing in it by which a mask on units could leak: name -> builder of (model, example).

Every one ends in a layer called ``head``. They are there for any test of what masks on units protect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Trap = Callable[[], tuple[nn.Module, Tensor]]
TRAPS: dict[str, Trap] = {}


class Net(nn.Module):
    """Named parts and a formula."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def trap(build: Trap) -> Trap:
    TRAPS[build.__name__] = build
    return build


def conv(inputs: int, outputs: int, size: int = 3, **how: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **how)


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 6, 4)


def pooled(x: Tensor) -> Tensor:
    return x.mean((-2, -1))


@trap
def sum_of_branches():
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(6, 5), "head": nn.Linear(5, 3)}
    return Net(lambda n, x: n.head(F.relu(n.a(x) + n.b(x))), **parts), torch.randn(2, 6)


@trap
def sigmoid():
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(torch.sigmoid(n.a(x))))), **parts), torch.randn(2, 6)


@trap
def layer_norm():
    parts = {"a": nn.Linear(6, 5), "norm": nn.LayerNorm(5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(n.norm(n.a(x))))), **parts), torch.randn(2, 6)


@trap
def layer_norm_without_affine():
    norm = nn.LayerNorm(5, elementwise_affine=False)
    parts = {"a": nn.Linear(6, 5), "norm": norm, "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(n.norm(n.a(x))))), **parts), torch.randn(2, 6)


@trap
def group_norm():
    parts = {"a": conv(3, 6), "norm": nn.GroupNorm(2, 6), "b": conv(6, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.b(F.relu(n.norm(n.a(x))))))), **parts), images()


@trap
def instance_norm():
    parts = {"a": nn.Conv1d(3, 5, 3), "norm": nn.InstanceNorm1d(5, affine=True), "head": nn.Linear(5, 3)}
    return Net(lambda n, x: n.head(F.relu(n.norm(n.a(x))).amax(-1)), **parts), torch.randn(2, 3, 7)


@trap
def batch_norm():
    parts = {"a": conv(3, 6), "norm": nn.BatchNorm2d(6), "b": conv(6, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.b(F.relu(n.norm(n.a(x))))))), **parts), images()


@trap
def batch_norm_without_affine():
    parts = {"a": conv(3, 6), "norm": nn.BatchNorm2d(6, affine=False), "b": conv(6, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.b(F.relu(n.norm(n.a(x))))))), **parts), images()


@trap
def batch_norm_of_a_sum():
    parts = {"a": conv(3, 6), "b": conv(3, 6), "norm": nn.BatchNorm2d(6), "head": nn.Linear(6, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.norm(n.a(x) + n.b(x))))), **parts), images()


@trap
def batch_norm_of_shuffled_channels():
    parts = {"a": conv(3, 6), "norm": nn.BatchNorm2d(6), "b": conv(6, 4), "head": nn.Linear(4, 3)}
    order = [2, 0, 1, 5, 3, 4]
    return Net(lambda n, x: n.head(pooled(F.relu(n.b(F.relu(n.norm(n.a(x)[:, order])))))), **parts), images()


@trap
def batch_norm_beside_a_hidden_reader():
    parts = {"a": conv(3, 6), "norm": nn.BatchNorm2d(6), "b": conv(6, 6), "head": nn.Linear(6, 3)}

    def run(n, x):
        h = n.a(x)
        return n.head(pooled(F.relu(n.norm(h)) + F.relu(n.b(h.nan_to_num()))))

    return Net(run, **parts), images()


@trap
def scale_and_shift():
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.zeros(5))

        def forward(self, x):
            return x + self.by

    parts = {"a": nn.Linear(6, 5), "shift": Shift(), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(F.relu(n.shift(n.a(x)))))), **parts), torch.randn(2, 6)


@trap
def two_activations():
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(10, 4), "head": nn.Linear(4, 3)}

    def run(n, x):
        h = n.a(x)
        return n.head(F.relu(n.b(torch.cat([F.relu(h), torch.sigmoid(h)], -1))))

    return Net(run, **parts), torch.randn(2, 6)


@trap
def two_activations_one_reader_called_twice():
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}

    def run(n, x):
        h = n.a(x)
        return n.head(F.relu(n.b(F.relu(h)) + n.b(torch.sigmoid(h))))

    return Net(run, **parts), torch.randn(2, 6)


@trap
def called_twice():
    parts = {"a": nn.Linear(6, 6), "b": nn.Linear(6, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(F.relu(n.a(F.relu(n.a(x))))))), **parts), torch.randn(2, 6)


@trap
def conv1d():
    parts = {"a": nn.Conv1d(3, 5, 3), "b": nn.Conv1d(5, 4, 3), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(F.relu(n.a(x)))).mean(-1)), **parts), torch.randn(2, 3, 9)


@trap
def channels_last():
    parts = {"a": nn.Linear(3, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(F.relu(n.a(x)))).mean((1, 2))), **parts), torch.randn(2, 4, 6, 3)


@trap
def inplace_activations():
    parts = {"a": conv(3, 5), "b": conv(5, 5), "act": nn.ReLU(inplace=True), "head": nn.Linear(5, 3)}

    def run(n, x):
        h = n.act(n.a(x).mul_(2))
        y = n.b(h)
        return n.head(pooled(y.add_(h).relu_()))

    return Net(run, **parts), images()


@trap
def transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True)
    parts = {"body": nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), "head": nn.Linear(8, 3)}
    return Net(lambda n, x: n.head(n.body(x).mean(1)), **parts).eval(), torch.randn(2, 5, 8)


@trap
def attention():
    parts = {name: nn.Linear(8, 8) for name in ("q", "k", "v", "out")}

    def run(n, x):
        q, k, v = (part(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for part in (n.q, n.k, n.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return n.head(x[:, 0] + n.out(y.transpose(1, 2).reshape(x.shape))[:, 0])

    return Net(run, **parts, head=nn.Linear(8, 3)), torch.randn(2, 5, 8)


@trap
def never_called():
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}

    def run(n, x):
        return n.head(F.relu(F.linear(F.relu(n.a(x)), n.b.weight, n.b.bias)))

    return Net(run, **parts), torch.randn(2, 6)


@trap
def weight_also_read_elsewhere():
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 5), "head": nn.Linear(5, 3)}

    def run(n, x):
        h = F.relu(n.a(x))
        return n.head(F.relu(n.b(h)) + F.linear(x[:, :5], n.b.weight))

    return Net(run, **parts), torch.randn(2, 6)


def _beside(see: Callable[[Tensor], Tensor]) -> tuple[Net, Tensor]:
    """Layer ``c`` reads ``a``, and ``b`` on a path that shows no NaN; ``d`` reads ``b`` openly."""
    parts = {name: nn.Linear(6, 5) for name in "ab"} | {name: nn.Linear(5, 4) for name in "cd"}

    def run(n, x):
        h = n.b(x)
        return n.head(F.relu(n.c(n.a(x) + see(h))) + F.relu(n.d(h)))

    return Net(run, **parts, head=nn.Linear(4, 3)), torch.randn(2, 6)


@trap
def nan_to_num():
    return _beside(torch.nan_to_num)


@trap
def compared():
    return _beside(lambda h: h > 0)


@trap
def nan_to_num_before_a_head_of_zeros():
    net, example = _beside(torch.nan_to_num)
    nn.init.zeros_(net.head.weight)
    return net, example


@trap
def lookup():
    parts = {"a": nn.Linear(6, 5), "table": nn.Embedding(5, 4), "b": nn.Linear(4, 4), "c": nn.Linear(6, 4)}
    parts["head"] = nn.Linear(4, 3)
    return Net(lambda n, x: n.head(n.b(n.table(n.a(x).argmax(-1))) + F.relu(n.c(x))), **parts), torch.randn(2, 6)


@trap
def lookup_of_a_rounded_number():
    parts = {"a": nn.Linear(6, 5), "table": nn.Embedding(5, 4), "c": nn.Linear(6, 4), "head": nn.Linear(4, 3)}

    def run(n, x):
        place = (n.a(x).mean(-1).tanh() * 2 + 2).long()
        return n.head(n.table(place) + F.relu(n.c(x)))

    return Net(run, **parts), torch.randn(2, 6)


@trap
def flatten():
    parts = {"a": conv(3, 5), "b": nn.Linear(5 * 6 * 4, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(F.relu(n.a(x)).flatten(1)))), **parts), images()


@trap
def grouped():
    parts = {"a": conv(3, 6), "b": conv(6, 4, groups=2), "c": conv(4, 6, groups=2), "head": nn.Linear(6, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.c(F.relu(n.b(F.relu(n.a(x)))))))), **parts), images()


@trap
def depthwise():
    parts = {"a": conv(3, 6), "b": conv(6, 12, groups=6), "c": conv(12, 5, 1), "head": nn.Linear(5, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.c(F.relu(n.b(F.relu(n.a(x)))))))), **parts), images()


@trap
def concatenation():
    parts = {"a": conv(3, 4), "b": conv(3, 6), "c": conv(13, 5), "head": nn.Linear(5, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.c(torch.cat([n.a(x), n.b(x), x], 1).relu())))), **parts), images()


@trap
def dense_block():
    parts = {"a": conv(3, 4), "n1": nn.BatchNorm2d(4), "b": conv(4, 4), "n2": nn.BatchNorm2d(8), "c": conv(8, 5)}
    parts |= {"n3": nn.BatchNorm2d(5), "head": nn.Linear(5, 3)}

    def run(n, x):
        h = n.a(x)
        h = torch.cat([h, n.b(F.relu(n.n1(h)))], 1)
        return n.head(pooled(F.relu(n.n3(n.c(F.max_pool2d(F.relu(n.n2(h)), 2))))))

    return Net(run, **parts), images()


@trap
def residual_block():
    names, parts = "abcds", {"a": conv(3, 4), "b": conv(4, 4), "c": conv(4, 6, stride=2), "d": conv(6, 6)}
    parts["s"] = nn.Conv2d(4, 6, 1, stride=2)
    parts |= {f"n{name}": nn.BatchNorm2d(parts[name].out_channels) for name in names}

    def run(n, x):
        h = F.relu(n.na(n.a(x)))
        h = F.relu(n.nb(n.b(h)) + h)
        h = F.relu(n.nd(n.d(F.relu(n.nc(n.c(h))))) + n.ns(n.s(h)))
        return n.head(pooled(h))

    return Net(run, **parts, head=nn.Linear(6, 3)), images()


@trap
def pre_activation():
    parts = {"a": conv(3, 4), "n1": nn.BatchNorm2d(4), "b": conv(4, 6), "n2": nn.BatchNorm2d(6), "c": conv(6, 4)}
    parts |= {"n3": nn.BatchNorm2d(4), "head": nn.Linear(4, 3)}

    def run(n, x):
        h = n.a(x)
        h = h + n.c(F.relu(n.n2(n.b(F.relu(n.n1(h))))))
        return n.head(pooled(F.relu(n.n3(h))))

    return Net(run, **parts), images()


@trap
def squeeze_and_excite():
    parts = {"a": conv(3, 6), "r": conv(6, 2, 1), "e": conv(2, 6, 1), "b": conv(6, 4), "head": nn.Linear(4, 3)}

    def run(n, x):
        h = F.relu(n.a(x))
        gate = torch.sigmoid(n.e(F.relu(n.r(h.mean((2, 3), keepdim=True)))))
        return n.head(pooled(F.relu(n.b(h * gate))))

    return Net(run, **parts), images()


@trap
def reshaped_rows():
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}

    def run(n, x):
        h = F.relu(n.a(x)).reshape(1, -1, 5)
        return n.head(F.relu(n.b(h)).reshape(len(x), -1, 4).mean(1))

    return Net(run, **parts), torch.randn(2, 7, 6)


@trap
def dropout():
    parts = {"a": conv(3, 5), "drop": nn.Dropout2d(0.5), "b": conv(5, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.dropout(pooled(n.b(n.drop(n.a(x))).relu()), 0.5, n.training)), **parts), images()


@trap
def max_pool():
    parts = {"a": conv(3, 5), "b": conv(5, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.max_pool2d(n.b(F.max_pool2d(n.a(x), 2)), 2).flatten(2).amax(2)), **parts), images()


@trap
def transposed():
    parts = {"a": conv(3, 5), "up": nn.ConvTranspose2d(5, 6, 2, stride=2), "b": conv(6, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.b(F.relu(n.up(F.relu(n.a(x)))))))), **parts), images()


@trap
def tied_layers():
    parts = {"a": nn.Linear(6, 6), "b": nn.Linear(6, 6), "c": nn.Linear(6, 4), "head": nn.Linear(4, 3)}
    parts["b"].weight = parts["a"].weight
    return Net(lambda n, x: n.head(F.relu(n.c(F.relu(n.b(F.relu(n.a(x))))))), **parts), torch.randn(2, 6)


@trap
def tied_head():
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(3, 5), "head": nn.Linear(5, 3)}

    class Turned(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return x @ self.weight

    parts["decode"] = Turned(parts["head"].weight)
    return Net(lambda n, x: n.head(F.relu(n.a(n.decode(n.b(x[:, :3])[:, :3]).repeat(1, 2)[:, :6]))), **parts), (
        torch.randn(2, 6)
    )


@trap
def gated():
    parts = {"a": nn.Linear(6, 5), "g": nn.Linear(6, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(F.silu(n.g(x)) * n.a(x)))), **parts), torch.randn(2, 6)


@trap
def gated_by_sigmoid():
    parts = {"a": nn.Linear(6, 10), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(F.glu(n.a(x))))), **parts), torch.randn(2, 6)


@trap
def pixel_shuffle():
    parts = {"a": conv(3, 8), "b": conv(2, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.b(F.pixel_shuffle(F.relu(n.a(x)), 2))))), **parts), images()


@trap
def zero_at_the_start():
    parts = {"a": conv(3, 5), "b": conv(5, 5), "c": conv(5, 4), "head": nn.Linear(4, 3)}
    nn.init.zeros_(parts["b"].weight)
    nn.init.zeros_(parts["b"].bias)

    def run(n, x):
        h = F.relu(n.a(x))
        return n.head(pooled(F.relu(n.c(h + n.b(h)))))

    return Net(run, **parts), images()


@trap
def zeros_of_a_layer_that_is_not_masked():
    net, example = _beside(torch.nan_to_num)
    net.b, net.d = nn.Bilinear(6, 6, 5), nn.Identity()
    nn.init.zeros_(net.b.weight)
    nn.init.zeros_(net.b.bias)
    net.run = lambda n, x: n.head(F.relu(n.c(F.relu(n.a(x) + n.b(x, x)))))
    return net, example


@trap
def raw_input_beside():
    parts = {"a": nn.Linear(6, 6), "b": nn.Linear(6, 4), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(F.relu(n.b(F.relu(n.a(x)) + F.relu(x - 2.5)))), **parts), torch.randn(2, 6)


@trap
def standardised_weights():
    class Standard(nn.Conv2d):
        def forward(self, x):
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, w, self.bias, padding=self.padding)

    parts = {"a": Standard(3, 5, 3, padding=1), "b": Standard(5, 4, 3, padding=1), "head": nn.Linear(4, 3)}
    return Net(lambda n, x: n.head(pooled(F.relu(n.b(F.relu(n.a(x)))))), **parts), images()
