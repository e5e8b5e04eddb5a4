"""Networks by name, their weights by seed or file, and what is said of those that do not exist."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from polymask.bank.bank import Bank
from polymask.builder import DEFAULTS, Builder
from polymask.cli.main import main
from polymask.learning.by_name import build, can_start_from
from polymask.methods import METHODS
from polymask.nets import NETS
from polymask.nets.by_name import build_model, example_of
from polymask.nets.weights import load_weights
from polymask.streams.images import digits


@pytest.mark.parametrize("name", NETS)
def test_our_networks_are_drawn_from_the_seed_alone(name: str) -> None:
    state = torch.get_rng_state()
    one, two = (build_model(name, (3, 32, 32), 4, seed=7).state_dict() for _ in range(2))
    torch.manual_seed(5)
    three = build_model(name, (3, 32, 32), 4, seed=8).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], three[key]) for key in one)
    torch.set_rng_state(state)


def test_timm_takes_channels_and_width_from_the_stream() -> None:
    model = build_model("test_resnet", (1, 32, 32), 5)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 5)
    again = build_model("timm/test_resnet", (1, 32, 32), 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_transformers_builds_from_a_folder(tmp_path: Path) -> None:
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertConfig(vocab_size=13, **sizes).save_pretrained(tmp_path)
    model = build_model(str(tmp_path), None, 3)
    assert model(**example_of(None)).logits.shape == (2, 3)


@pytest.mark.parametrize("name", ["resnet81", "convnett"])
def test_an_unknown_network_is_met_with_the_nearest_names(name: str) -> None:
    with pytest.raises(ValueError, match=rf"found '{name}': did you mean (resnet|convnet)"):
        build_model(name, (3, 8, 8), 2)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'polymask\[vision\]'"):
        build_model("resnet18d", (3, 8, 8), 2)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'polymask\[text\]'"):
        build_model("some/bert", None, 2)


@pytest.mark.parametrize("name", ["torch.nn:Nothing", "torch.nn:init", "no.such:thing"])
def test_a_factory_that_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected (arguments that the network|package\.module:factory)"):
        build_model(name, None, 2)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_fill_all_but_a_head_of_another_width(tmp_path: Path, suffix: str) -> None:
    theirs, path = build_model("convnet", (1, 8, 8), 10, seed=3).state_dict(), tmp_path / f"weights{suffix}"
    save_file(theirs, path) if suffix == ".safetensors" else torch.save({"state_dict": theirs}, path)
    model = build_model("convnet", (1, 8, 8), 2)
    load_weights(model, path, "head")
    own = build_model("convnet", (1, 8, 8), 2).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name] if name.startswith("head.") else theirs[name])


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    model, path = build_model("mlp", (1, 8, 8), 2), tmp_path / "weights.pt"
    state = model.state_dict()
    torch.save({**{k: v for k, v in state.items() if k != "body.3.bias"}, "more": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"'body.3.bias' is missing; 'more' is not of this network"):
        load_weights(model, path, "head")
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="to hold tensors alone"):
        load_weights(model, path, "head")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="to hold tensors alone, found an empty file"):
        load_weights(model, path, "head")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected .*safetensors to hold tensors, found "):
        load_weights(model, tmp_path / "weights.safetensors", "head")
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="to hold a state dict, names and tensors, found list"):
        load_weights(model, path, "head")


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="to hold tensors alone"):
        load_weights(build_model("mlp", (1, 8, 8), 2), tmp_path / "weights.pt", "head")


def test_weights_of_a_file_are_no_part_of_how_a_network_is_built() -> None:
    with pytest.raises(ValueError, match=r"found 'mine\.pt': a file is read afterwards"):
        build_model("mlp", (1, 8, 8), 2, weights="mine.pt")


def test_a_bank_builds_the_network_without_the_file_it_began_with(tmp_path: Path) -> None:
    stream, path = digits(2), tmp_path / "weights.pt"
    torch.save(build_model("mlp", (1, 8, 8), 2).state_dict(), path)
    _, builder = build(stream, "mlp", {}, str(path), 0, 0.1)
    path.unlink()
    assert isinstance(builder, Builder)
    assert builder.build()(torch.rand(2, 1, 8, 8)).shape == (2, 5)


def test_who_can_start_from_what() -> None:
    from polymask.methods import PackNet, Piggyback, SupSup

    starts = {
        kind: [can_start_from(kind, weights) for weights in ("random", "first-task", "file.pt")]
        for kind in (PackNet, Piggyback, SupSup, None)
    }
    assert starts == {
        PackNet: [True, False, True],
        Piggyback: [True, True, True],
        SupSup: [True, False, False],
        None: [True, False, True],
    }


def test_a_conv_net_of_before_there_was_pooling_is_built_and_gone_on_with_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = {"name": "convnet", "example_shape": (1, 8, 8), "outputs": 2}
    before, now = (
        Builder.from_json({"name": "polymask.nets.by_name:build_model", "args": {**args, **how}}).build()
        for how in ({}, {"widths": [8], "pool": True})
    )
    assert (before.head.in_features, now.head.in_features) == (32 * 2 * 2, 8)
    run = ["run", "--method", "packnet", "--tasks", "2", "--model", "convnet", "--epochs", "1", "--quiet", "true"]
    run += ["--out", str(tmp_path), "--net.pool", "false", "--net.widths", "[16, 32]"]
    assert main(run) == 0
    config = tmp_path / "config.yaml"
    said = yaml.safe_load(config.read_text())
    assert said.pop("net") == {"widths": [16, 32], "pool": False}
    config.write_text(yaml.safe_dump({**said, "net": {}}))
    assert main(run[:-4]) == 1
    assert "net.pool: False there, True now" in capsys.readouterr().err
    assert main(run) == 0


def test_a_bank_of_a_named_network_says_what_the_network_was_when_it_was_made(tmp_path: Path) -> None:
    args = {"name": "convnet", "example_shape": [1, 8, 8], "outputs": 2}
    net = build_model(**args)
    method = METHODS["piggyback"](net, torch.zeros(1, 1, 8, 8))
    builder = Builder("polymask.nets.by_name:build_model", args)
    bank = Bank.create(tmp_path / "bank", method.sites, method="piggyback", builder=builder)
    assert Builder.from_json(bank.about["builder"]).build().head.in_features == 128


def test_the_defaults_that_banks_say_are_those_of_the_networks() -> None:
    for name, said in DEFAULTS.items():
        known = inspect.signature(NETS[name]).parameters
        assert said == {key: list(found) if isinstance(found := known[key].default, tuple) else found for key in said}
