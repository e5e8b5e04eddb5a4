"""Adapters in any encoder: where branches end, what is plugged in and out, and what a bank keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.texts.toys import bert, reviews, save_bert
from torch import Tensor, nn

from polymask import HAT, Bank, Mixed, Piggyback, Task, Training, export_task, learn, load
from polymask.calling import call
from polymask.nets.by_name import build_model
from polymask.parts.pack import unpack
from polymask.sites.plugs import Asks, describe_plugs, plug, plug_again, plugged, unplug
from polymask.streams import Text
from polymask.surgery import Adapter, CannotPlug, add_adapters, find_joints

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
WORDS = {**SIZES, "vocab_size": 50, "max_position_embeddings": 32}
TOKENS = {"input_ids": torch.arange(5, 19).view(2, 7), "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
PICTURE = torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "vocab_size": 50, "max_position_embeddings": 32}


def of_words(config: Any) -> tuple[nn.Module, Any]:
    return transformers.AutoModelForSequenceClassification.from_config(config), TOKENS


def timm_vit(scaled: bool) -> tuple[nn.Module, Any]:
    import timm

    more = {"init_values": 1e-5} if scaled else {}
    return timm.create_model("test_vit", num_classes=2, img_size=32, **more), PICTURE


def hugging_vit() -> tuple[nn.Module, Any]:
    config = transformers.ViTConfig(**SIZES, image_size=32, patch_size=8)
    return transformers.ViTForImageClassification(config), PICTURE


class Encoder(nn.Module):
    """torch's own encoder before a head, told what is padding."""

    def __init__(self, first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=first)
        self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 2)

    def forward(self, x: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.head(self.body(x, src_key_padding_mask=src_key_padding_mask)[:, 0])
        return found


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "bert": lambda: of_words(transformers.BertConfig(**WORDS)),
    "roberta": lambda: of_words(transformers.RobertaConfig(**WORDS)),
    "distilbert": lambda: of_words(transformers.DistilBertConfig(**DISTIL)),
    "electra": lambda: of_words(transformers.ElectraConfig(**WORDS, embedding_size=8)),
    "deberta-v2": lambda: of_words(
        transformers.DebertaV2Config(**WORDS, relative_attention=True, pos_att_type=["p2c", "c2p"], conv_kernel_size=3)
    ),
    "hugging-face-vit": hugging_vit,
    "timm-vit": lambda: timm_vit(False),
    "timm-vit-layerscale": lambda: timm_vit(True),
    "encoder": lambda: (Encoder(), torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))),
    "encoder-norm-first": lambda: (Encoder(True), torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))),
}


def answer(model: nn.Module, x: Any) -> Tensor:
    with torch.no_grad():
        found = call(model.eval(), x)
    return found if isinstance(found, Tensor) else found["logits"]


@pytest.mark.parametrize("name", NETWORKS)
def test_branches_end_twice_a_layer_and_unplugged_the_network_is_as_it_was(name: str) -> None:
    model, x = NETWORKS[name]()
    layers = 2 if name not in ("timm-vit", "timm-vit-layerscale") else len(model.blocks)  # type: ignore[arg-type]
    before, keys = answer(model, x), list(model.state_dict())
    joints = find_joints(model, x)
    assert len(joints) == 2 * layers == len({joint.module for joint in joints})
    add_adapters(model, x, 4)
    assert all(not p.requires_grad or ".plug." in name for name, p in model.named_parameters())
    inside = tuple(f"{name}." for name in plugged(model))
    assert [key for key in model.state_dict() if not key.startswith(inside)] == keys
    assert not torch.equal(answer(model, x), before)
    assert list(unplug(model)) == [f"{joint.module}.plug" for joint in joints]
    assert torch.equal(answer(model, x), before)
    assert list(model.state_dict()) == keys
    assert not plugged(model)


def test_what_has_no_place_for_adapters_is_refused_in_a_sentence() -> None:
    albert, x = of_words(transformers.AlbertConfig(**WORDS, embedding_size=8))
    with pytest.raises(CannotPlug, match=r"layers of their own, found '.*' called 2 times in one forward"):
        find_joints(albert, x)
    with pytest.raises(CannotPlug, match="adapters have no place in it"):
        find_joints(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="an example that the model accepts"):
        find_joints(Encoder(), torch.zeros(2, 5, 7))
    model = add_adapters(Encoder(), torch.zeros(2, 5, 16), 4)
    with pytest.raises(ValueError, match=r"expected nothing plugged into 'body.layers.0.dropout1', found something"):
        plug(model, {"body.layers.0.dropout1": nn.Identity()})


class Around(nn.Module):
    """A network of one's own around a transformer, that takes a batch in one piece."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        found: Tensor = self.inner(**batch).logits
        return found


class Listener(Asks):
    """Notes which tokens it is told are real."""

    def __init__(self, heard: list[Any]) -> None:
        super().__init__()
        self.heard = heard

    def forward(self, x: Tensor) -> Tensor:
        self.heard.append(self.real_tokens())
        return x


def test_what_is_plugged_in_is_told_which_tokens_are_padding() -> None:
    heard: list[Any] = []
    model, x = NETWORKS["bert"]()
    plug(model, {"bert.encoder.layer.0.output.dropout": Listener(heard)})
    answer(model, x)
    assert heard[-1].tolist() == (TOKENS["attention_mask"] == 1).tolist()
    encoder, y = Encoder(), torch.zeros(1, 3, 16)
    plug(encoder, {"body.layers.0.dropout1": Listener(heard)})
    encoder.eval()(y, src_key_padding_mask=torch.tensor([[False, False, True]]))
    assert heard[-1].tolist() == [[True, True, False]]
    encoder(y, torch.tensor([[False, True, True]]))
    assert heard[-1].tolist() == [[True, False, False]], "also where it is told without a name"
    encoder(y)
    assert heard[-1] is None
    around = Around(NETWORKS["bert"]()[0])
    plug(around, {"inner.bert.encoder.layer.1.output.dropout": Listener(heard)})
    around.eval()(x)
    assert heard[-1].tolist() == (TOKENS["attention_mask"] == 1).tolist(), "also where a module inside is told"
    with pytest.raises(RuntimeError):
        model(**{**x, "input_ids": torch.zeros(2, 9, dtype=torch.long)})
    listener = next(module for module in model.modules() if isinstance(module, Listener))
    assert listener.real_tokens() is None, "a forward that failed leaves nothing behind"


def test_what_was_plugged_in_is_plugged_in_again() -> None:
    model, x = NETWORKS["bert"]()
    add_adapters(model, x, 4)
    described = describe_plugs(model)
    plain = NETWORKS["bert"]()[0]
    plug_again(plain, described)
    assert list(plain.state_dict()) == list(model.state_dict())
    assert plug_again(plain, described) is plain, "what is there stays"
    with pytest.raises(ValueError, match=r"expected a module 'bert.*' in the network, found none"):
        plug_again(Encoder(), described)
    with pytest.raises(ValueError, match=r"the class 'nowhere:Adapter' of what is plugged in, found none"):
        plug_again(NETWORKS["bert"]()[0], [{**described[0], "maker": "nowhere:Adapter"}])
    plug(bare := Encoder(), {"body.layers.0.dropout1": nn.Identity()})
    with pytest.raises(ValueError, match=r"to say what it was made with, found no arguments"):
        describe_plugs(bare)


def test_an_adapter_starts_close_to_the_branch_and_draws_from_its_seed() -> None:
    x = torch.randn(3, 5, 16)
    one, again, other = Adapter(16, 4, "a"), Adapter(16, 4, "a"), Adapter(16, 4, "b")
    assert torch.equal(one(x), again(x))
    assert not torch.equal(one(x), other(x))
    assert 0 < (one(x) - x).abs().mean().item() < 0.05


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return Text(str(save_bert(tmp_path_factory.mktemp("words") / "bert")))


def tasks(words: Text) -> list[Task]:
    return [Task(noun, reviews(noun, 40), inputs=words) for noun in ("phone", "book")]


@pytest.mark.filterwarnings("ignore:task .* ended at chance", "ignore:after task .* is free")
def test_hat_in_adapters_masks_both_layers_and_forgets_nothing(words: Text) -> None:
    host = add_adapters(bert(), words(["the phone is good", "a book"]), 8)
    frozen = {name: value.clone() for name, value in host.state_dict().items() if ".plug." not in name}
    how = {"sites": "all", "c": 0.1}
    training = Training(epochs=2, batch_size=8, optimizer="adamw", lr=0.01, weight_decay=0.1, quiet=True)
    run = learn(host, tasks(words), HAT, training=training, options=how)
    layers = {f"{name}.{layer}" for name in plugged(host) for layer in ("down", "up")}
    assert {*run.method.records["phone"].masks} == layers
    assert run.report["max_logit_drift"] == 0
    now = host.state_dict()
    assert all(torch.equal(now[name], value) for name, value in frozen.items() if "classifier" not in name)
    name = next(iter(plugged(host)))
    used = unpack(run.method.records["phone"].masks[f"{name}.up"]) | unpack(
        run.method.records["book"].masks[f"{name}.up"]
    )
    assert torch.equal(run.method.state["used"][f"{name}.up.bias"] > 0, used), "a row is protected by its own mask"


def test_a_bank_plugs_adapters_into_a_plain_host_again(words: Text, tmp_path: Path) -> None:
    training, x = Training(epochs=1, batch_size=8, quiet=True), ["the phone is good", "a book was bad"]
    host = add_adapters(bert(), words(x), 8)
    run = learn(
        host, tasks(words)[:1], Piggyback, out=tmp_path / "out", training=training, options={"backbone": "given"}
    )
    expected = run.logits("phone", x)
    again = load(tmp_path / "out", bert())
    assert torch.equal(again.logits("phone", x), expected)
    assert [one["module"] for one in Bank.open(tmp_path / "out" / "bank").outline["plugged"]] == [
        name.removesuffix(".plug") for name in plugged(host)
    ]
    assert again.bank.verify(bert()).ok
    adapted = add_adapters(bert(), words(x), 8)
    assert torch.equal(load(tmp_path / "out", adapted).logits("phone", x), expected)


def test_a_network_by_name_comes_with_adapters(words: Text) -> None:
    model = build_model(words.tokenizer, None, 2, adapters=4)
    assert len(plugged(model)) == 4
    assert torch.equal(
        answer(model, words(["a book"])), answer(build_model(words.tokenizer, None, 2, adapters=4), words(["a book"]))
    )


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:task .* ended at chance", "ignore:after task .* is free")
@pytest.mark.parametrize(("method", "options"), [("hat", {"sites": "all", "c": 0.1}), ("ctr", {"bottleneck": 8})])
def test_what_adapters_learned_is_exported_and_mixed_or_refused(
    method: str, options: dict[str, Any], words: Text, tmp_path: Path
) -> None:
    host = bert() if method == "ctr" else add_adapters(bert(), words(["the phone is good", "a book"]), 8)
    training, x = Training(epochs=1, batch_size=8, quiet=True), ["the phone is good", "a book was very bad", "it lasts"]
    run = learn(host, tasks(words), method, out=tmp_path / "out", training=training, options=options)
    for to, suffix in (("onnx", "onnx"), ("torch", "pt2"), ("safetensors", "safetensors")):
        out = tmp_path / f"phone.{suffix}"
        assert export_task(tmp_path / "out", "phone", out, to=to, base=bert()).path.exists()  # type: ignore[arg-type]
    bank, order = Bank.open(tmp_path / "out" / "bank"), ["phone", "book", "phone"]
    records = {task: bank.record(task) for task in bank.tasks}
    if method == "ctr":
        with pytest.raises(ValueError, match=r"answer one task at a time, with activate\(task\)"):
            Mixed(bank.model(bert()), records)(words(x), order)
        return
    expected = torch.stack([run.logits(task, [text])[0] for task, text in zip(order, x, strict=True)])
    torch.testing.assert_close(Mixed(bank.model(bert()), records)(words(x), order), expected, rtol=1e-4, atol=1e-5)


def test_what_is_plugged_in_takes_the_networks_numbers() -> None:
    host = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1, enable_nested_tensor=False)
    x = torch.randn(2, 3, 8, dtype=torch.bfloat16)
    adapted = add_adapters(nn.Sequential(host, nn.Flatten(), nn.Linear(24, 2)).bfloat16(), x, 4)
    assert {parameter.dtype for parameter in adapted.parameters()} == {torch.bfloat16}
    assert adapted(x).dtype == torch.bfloat16
