"""The rules of the grammar: how a block joins its parts. ``_grammar`` says which parts each wants."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from _blocks import Block, Said


def plain(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h))


def normed(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.n(b.a(h)))


def normed_before(b: Block, h: Tensor, said: Said) -> Tensor:
    return h + b.c(b.f(b.a(b.n(h))))


def normed_behind(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.n(h + b.f(b.a(h)))


def residual(b: Block, h: Tensor, said: Said) -> Tensor:
    return h + b.c(b.f(b.a(h)))


def summed(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)) + b.g(b.c(h))


def joined(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.g(b.c(torch.cat([b.f(b.a(h)), h], b.axis)))


def gated(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)) * torch.sigmoid(b.c(h))


def weighed(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.a(h) * torch.softmax(b.c(h), b.axis)


def twice(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.g(b.a(b.f(b.a(h))))


def tied(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.g(b.t(b.f(b.a(h))))


def read_again(b: Block, h: Tensor, said: Said) -> Tensor:
    return h + F.linear(b.f(b.a(h)), b.a.weight.t())


def read_past(b: Block, h: Tensor, said: Said) -> Tensor:
    return (b.f(b.a(h)) + F.linear(h, b.again[0])).relu()


def two_readers(b: Block, h: Tensor, said: Said) -> Tensor:
    x = b.a(h)
    return b.c(b.f(x)) + b.d(b.g(x))


def halved(b: Block, h: Tensor, said: Said) -> Tensor:
    return F.glu(b.w(h), b.axis)


def maxout(b: Block, h: Tensor, said: Said) -> Tensor:
    one, two = b.w(h).chunk(2, b.axis)
    return torch.maximum(one, two)


def experts(b: Block, h: Tensor, said: Said) -> Tensor:
    p = torch.softmax(b.a(h), b.axis)
    first, second = p.narrow(b.axis, 0, 1), p.narrow(b.axis, 1, 1)
    return first * b.f(b.c(h)) + second * b.g(b.d(h))


def dropped(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.drop(b.f(b.a(h)))


def rolled(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)).roll(1, b.axis)


def opened(b: Block, h: Tensor, said: Said) -> Tensor:
    return h * (b.a(h) > 0)


def winner(b: Block, h: Tensor, said: Said) -> Tensor:
    x = b.a(h)
    return b.c(torch.zeros_like(x).scatter(b.axis, x.argmax(b.axis, keepdim=True), 1.0)) + x


def ordered(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.c(b.f(b.a(h)).sort(b.axis).values)


def shifted(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)) + b.wide(b.gain, h)


def squeezed(b: Block, h: Tensor, said: Said) -> Tensor:
    x, others = b.f(b.a(h)), [place for place in b.others(h) if place != said.batch]
    return h * torch.sigmoid(x.mean(others, keepdim=True) if others else x)


def raw(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(h @ b.weight) + b.a(h)


def woven(b: Block, h: Tensor, said: Said) -> Tensor:
    return F.linear(h, b.a.weight * torch.sigmoid(b.c.weight), b.a.bias + b.c.bias).relu()


def narrowed(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.c(b.f(b.a(h)))


def by_count(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)) if h.shape[said.batch] < 6 else b.g(b.c(h))


def by_size(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)) if float(h.detach().abs().max()) < 50 else b.g(b.c(h))


def centred(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h) - b.a(h).mean(b.axis, keepdim=True))


def divided(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.a(h) / (1 + b.c(h).abs())


# State that a forward changes.


def centre(b: Block, h: Tensor, said: Said) -> Tensor:
    x = b.a(h)
    if b.training:
        b.mean.mul_(0.9).add_(x.detach().mean(b.others(x)), alpha=0.1)
    return b.f(x - b.wide(b.mean, x))


def counted(b: Block, h: Tensor, said: Said) -> Tensor:
    if b.training:
        b.steps += 1
    return b.f(b.a(h)) / (1 + 0.05 * b.steps)


def queued(b: Block, h: Tensor, said: Said) -> Tensor:
    x = b.f(b.a(h))
    if b.training:
        b.queue.copy_(torch.cat([b.queue[1:], x.detach().mean(b.others(x))[None]]))
    return x + b.wide(b.queue.mean(0), x)


def peaked(b: Block, h: Tensor, said: Said) -> Tensor:
    x = b.a(h)
    if b.training:
        b.peak = torch.maximum(b.peak, x.detach().abs().max())
    return b.f(x / b.peak)


def coded(b: Block, h: Tensor, said: Said) -> Tensor:
    x = b.a(h).movedim(b.axis, -1)
    near = torch.cdist(x.detach().reshape(-1, x.shape[-1]), b.codes).argmin(-1)
    if b.training:
        b.codes[near] = b.codes[near].lerp(x.detach().reshape(-1, x.shape[-1]), 0.1)
    return (x + (b.codes[near].view(x.shape) - x).detach()).movedim(-1, b.axis)


def powered(b: Block, h: Tensor, said: Said) -> Tensor:
    w = b.a.weight
    if b.training:
        b.u.copy_(F.normalize(w.detach() @ (w.detach().T @ b.u), dim=0))
    return b.f(b.a(h) / (1e-3 + (w.T @ b.u).norm()))


def remembered(b: Block, h: Tensor, said: Said) -> Tensor:
    x = b.a(h)
    if b.training:
        b.last = x.detach().mean(b.others(x))
    return b.f(x - b.wide(b.last, x) if isinstance(b.last, Tensor) else x)


def numbered(b: Block, h: Tensor, said: Said) -> Tensor:
    if b.training:
        b.calls += 1
    return b.f(b.a(h)) * (1 + 0.1 * b.calls)


# A flag.


def expert(b: Block, h: Tensor, said: Said) -> Tensor:
    return torch.where(said.flag == 2, b.f(b.a(h)), b.g(b.c(h)))


def any_expert(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)) if bool((said.flag > 1).any()) else b.g(b.c(h))


def scaled(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.c(b.f(b.a(h)) * said.flag)


def lit(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.c(b.f(b.a(h)) + (said.flag > 2))


def bright(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.c(torch.where(said.flag > 150, torch.sigmoid(b.a(h)), b.a(h).relu()))


def cut(b: Block, h: Tensor, said: Said) -> Tensor:
    place = torch.arange(h.shape[b.axis])
    return b.c(torch.where(b.wide(place, h) < 3 * said.flag, torch.sigmoid(b.a(h)), 0.0))


def domain(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f((b.n if bool((said.flag == 1).all()) else b.m)(b.a(h)))


# Steps.


def positioned(b: Block, h: Tensor, said: Said) -> Tensor:
    steps = torch.arange(h.shape[said.time], dtype=h.dtype)
    code = torch.sin(steps[:, None] / torch.arange(1, h.shape[-1] + 1))
    return b.c((b.a(h).relu() + (code if said.time else code[:, None])).relu())


def placed(b: Block, h: Tensor, said: Said) -> Tensor:
    code = b.table[: h.shape[said.time]]
    return b.f(b.a(h)) + (code if said.time else code[:, None])


def attended(b: Block, h: Tensor, said: Said) -> Tensor:
    x = h if said.time else h.transpose(0, 1)
    scores = b.q(x) @ b.k(x).transpose(-1, -2) / 3
    if said.real is not None:
        scores = scores.masked_fill(said.real.transpose(1, 2) == 0, -1e9)
    y = b.c(torch.softmax(scores, -1) @ b.v(x))
    return h + (y if said.time else y.transpose(0, 1))


def heads(b: Block, h: Tensor, said: Said) -> Tensor:
    gone = None if said.real is None else said.real[..., 0] == 0
    return h + b.mha(h, h, h, key_padding_mask=gone, need_weights=False)[0]


def recurrent(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.rnn(h)[0]


def running(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)).cumsum(said.time) / 4


def delayed(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)) + b.g(b.c(h.roll(1, said.time)))


def padded(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.c(torch.sigmoid(b.a(h)) * (1 if said.real is None else said.real))


def by_length(b: Block, h: Tensor, said: Said) -> Tensor:
    return b.f(b.a(h)) if h.shape[said.time] < 6 else b.g(b.c(h))
