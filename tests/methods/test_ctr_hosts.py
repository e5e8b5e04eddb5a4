"""CTR in hosts of other makes: which tokens are padding is known in each, or the host is refused in a sentence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.texts.toys import bert
from torch import Tensor, nn
from torch.nn import functional as F

from polymask import Bank
from polymask.calling import call
from polymask.methods import CTR
from polymask.sites.plugs import plugged, unplug
from polymask.sites.table import detach
from polymask.surgery import CannotPlug, add_adapters

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 1,
}
LENGTHS = (16, 8, 16, 12)


def padded() -> dict[str, Tensor]:
    """Four texts, of which two are padded."""
    ids = torch.randint(5, 50, (4, 16), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(16) < torch.tensor(LENGTHS)[:, None]
    return {"input_ids": ids.where(mask, 1), "attention_mask": mask.long()}


def roberta() -> nn.Module:
    torch.manual_seed(0)
    return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SIZES))


def longformer() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LongformerConfig(**SIZES, attention_window=[4, 4])
    return transformers.LongformerForSequenceClassification(config)


class Encoder(nn.Module):
    """torch's own layers; told what is padding by position."""

    def __init__(self, nested: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=batch_first)
        self.first = batch_first
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=nested)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        x = x if self.first else x.transpose(0, 1)
        found = self.body(x, src_key_padding_mask=padding)
        logits: Tensor = self.head(found[:, 0] if self.first else found[0])
        return logits


class Told(Encoder):
    """Reads no mask, but is given one."""

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(x)


def learned(host: nn.Module, x: Any) -> CTR:
    """A learner of one task whose capsules and adapters say something."""
    method = CTR(host, x, bottleneck=8)
    method.begin("a", outputs=2)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            parameter.mul_(30 if name.endswith("adapter.up.weight") else 3 if "sharing" in name else 1)
            if name.endswith("scores"):
                parameter.abs_()
    method.on_step(0.0)
    loss = F.cross_entropy(logits(method.model.train(), x), torch.tensor([0, 1, 0, 1])) + method.penalty()
    loss.backward()
    torch.optim.SGD(method.parameters(), lr=0.01).step()
    method.end("a")
    return method


def logits(model: nn.Module, x: Any) -> Tensor:
    found = call(model, x)
    return found if isinstance(found, Tensor) else found.logits


def alone(model: nn.Module, x: dict[str, Tensor]) -> Tensor:
    """The logits of each text by itself, without padding."""
    rows = ({name: t[row : row + 1, :length] for name, t in x.items()} for row, length in enumerate(LENGTHS))
    return torch.cat([logits(model, row) for row in rows])


@torch.no_grad()
@pytest.mark.parametrize("make", [roberta, longformer])
def test_padding_changes_no_answer(make: Callable[[], nn.Module]) -> None:
    x = padded()
    with torch.enable_grad():
        plain = learned(make(), x).plain("a")
    assert torch.allclose(logits(plain, x), alone(plain, x), atol=1e-5)


@torch.no_grad()
def test_half_precision_finds_the_same_routes() -> None:
    x = padded()
    with torch.enable_grad():
        method = learned(roberta(), x)
    plain, routes = method.plain("a"), method.routes("a", x)
    expected = logits(plain, x)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            assert torch.allclose(logits(plain, x).float(), expected, atol=0.05)
            found = method.routes("a", x)
        assert all(torch.equal(found[name], routes[name]) for name in routes)
    assert torch.allclose(logits(copy.deepcopy(plain).half(), x).float(), expected, atol=0.05)


@torch.no_grad()
def test_compiled_a_network_is_told_what_is_padding_and_so_are_its_layers_one_by_one(
    request: pytest.FixtureRequest,
) -> None:
    if not request.config.getoption("untyped"):
        pytest.skip("checks of annotations cannot be compiled")
    x = padded()
    with torch.enable_grad():
        plain = learned(roberta(), x).plain("a")
    whole, expected = copy.deepcopy(plain), logits(plain, x)
    whole.compile(backend="eager")
    assert torch.allclose(logits(whole, x), expected, atol=1e-6)
    for layer in plain.roberta.encoder.layer:
        layer.compile(backend="eager")
    assert torch.allclose(logits(plain, x), expected, atol=1e-6)


def test_a_mask_of_another_shape_is_refused() -> None:
    x = torch.randn(4, 5, 8), torch.ones(4, 5)
    plain = learned(Told(), x).plain("a")
    assert plain(*x).shape == (4, 2)
    with pytest.raises(RuntimeError, match=r"found .* a mask of another shape: .*give it \(N, L\)"):
        plain(x[0], torch.ones(4, 1, 5))


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_are_computed_again_in_backward_are_refused(reentrant: bool) -> None:
    x = padded()
    method = CTR(roberta(), x, bottleneck=8)
    method.begin("a", outputs=2)
    method.on_step(0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        method.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with pytest.raises(RuntimeError, match=r"computed again in backward.*gradient_checkpointing_disable"):
        logits(method.model.train(), x).sum().backward()


def test_hosts_in_which_a_sample_is_no_row_are_refused() -> None:
    wrong, x = Encoder(batch_first=False), torch.randn(4, 5, 8)
    with pytest.raises(CannotPlug, match=r"samples on the first axis .*, found 5 there for one .*batch_first=True"):
        CTR(wrong, x)
    assert not plugged(wrong)
    assert all(parameter.requires_grad for parameter in wrong.parameters())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@torch.no_grad()
def test_nested_tensors_are_refused_with_the_way_out() -> None:
    x = torch.randn(4, 5, 8), torch.arange(5) >= torch.tensor([5, 2, 5, 3])[:, None]
    with torch.enable_grad():
        plain = learned(Encoder(nested=True), x[0]).plain("a")
        with pytest.raises(ValueError, match=r"found a nested tensor.*enable_nested_tensor=False"):
            CTR(Encoder(nested=True), x)
    with pytest.raises(TypeError, match=r"found a nested tensor.*set its use_nested_tensor to False"):
        plain(*x)
    plain.body.use_nested_tensor = False
    assert torch.allclose(plain(*x)[1:2], plain(x[0][1:2, :2]), atol=1e-5)


def test_unplugged_a_host_learns_again_what_it_learned_before() -> None:
    host, x = Encoder(), torch.randn(4, 5, 8)
    host.head.bias.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in host.named_parameters()}
    method = learned(host, x)
    unplug(detach(method.model))
    assert {name: parameter.requires_grad for name, parameter in host.named_parameters()} == before
    unplug(add_adapters(host, x, 4))
    assert {name: parameter.requires_grad for name, parameter in host.named_parameters()} == before


def test_routes_of_inputs_in_a_tuple() -> None:
    x = torch.randn(4, 5, 8), torch.zeros(4, 5, dtype=torch.bool)
    assert {tuple(one.shape) for one in learned(Encoder(), x).routes("a", x).values()} == {(4, 1)}


def test_another_network_than_the_bank_s_is_given_back_bare(tmp_path: Path) -> None:
    x = padded()
    method = learned(roberta(), x)
    bank = Bank.create(tmp_path / "bank", method.sites, method="ctr", owned=method.owned, example=x)
    bank.commit(method.records, method.sites)
    other = bert()
    keys = list(other.state_dict())
    with pytest.raises(ValueError, match="expected"):
        bank.model(other)
    assert not plugged(other)
    assert list(other.state_dict()) == keys
    wider = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**{**SIZES, "hidden_size": 32}))
    with pytest.raises(ValueError, match="expected"):
        bank.model(wider)
    assert not plugged(wider)
