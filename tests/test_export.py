"""A task as a file: who loads it without polymask gets the task's own answers, and no file stays that gives others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.contract import drive, zoo
from torch import Tensor, nn

import polymask
from polymask import HAT, Bank, PackNet, export_task, learn, load
from polymask.cli.main import main
from polymask.export import program
from polymask.export.weights import load_weights
from polymask.learning.by_name import run_named
from polymask.learning.training import Training
from polymask.method.contract import Method
from polymask.methods import METHODS
from polymask.streams.inputs import Inputs
from polymask.streams.stream import Task

HERE = str(Path(polymask.__file__).parents[2]).encode()
"""Where this machine has its files, which is not to stand in a file for others."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of masks on units, of a network that the bank can build."""
    out = tmp_path_factory.mktemp("run")
    run_named("hat", "digits", tasks=2, model="convnet", out=str(out), training=Training(epochs=1))
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of images that are brought to a size and to grey, and scaled."""
    out = tmp_path_factory.mktemp("photos")
    x = torch.randint(256, (32, 3, 9, 7), dtype=torch.uint8)
    inputs = Inputs(mean=(0.4,), std=(0.2,), size=(8, 8), channels=1)
    task = Task("photos", (x, torch.arange(32) % 3), labels=["ant", "bee", "fly"], inputs=inputs)
    learn(net(), [task], "packnet", out=out, training=Training(epochs=1, val_fraction=0.25))
    return out


def net() -> nn.Module:
    torch.manual_seed(3)
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*body)


def bank_of(method: Method, folder: Path, example: object, count: int = 2) -> Path:
    """A bank of tasks that a method has learned, whose network nobody but the caller has."""
    drive.learn(method, drive.tasks(example, count), drive.sgd(), steps=1)
    bank = Bank.create(folder, method.sites, method=method.name, example=example, head=method.head)
    bank.commit(method.records, method.sites)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_onnx_answers_in_onnxruntime_and_says_what_it_is(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    found = export_task(run, "#2", tmp_path / "five.onnx", prune=True)
    session = onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"])
    x = torch.rand(5, 1, 8, 8)
    logits = torch.from_numpy(session.run(["logits"], {"input": x.numpy()})[0])
    torch.testing.assert_close(logits, load(run).logits("digits/5..9", x), rtol=1e-4, atol=1e-5)
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]
    assert session.get_outputs()[0].shape == ["batch", 5]
    words = session.get_modelmeta().custom_metadata_map
    assert json.loads(words["labels"]) == ["5", "6", "7", "8", "9"]
    assert words["task"] == "digits/5..9"
    assert HERE not in found.path.read_bytes()
    assert files(tmp_path) == ["five.onnx", "five.onnx.json"]
    about = json.loads((tmp_path / "five.onnx.json").read_text())
    assert about == json.loads(json.dumps(found.about))
    before, after = about["pruned"]["parameters"]
    assert after == about["parameters"] < before
    assert about["checked"]["difference"] <= about["checked"]["tolerance"]


@pytest.mark.full
def test_a_program_of_torch_is_loaded_by_torch_alone(run: Path, tmp_path: Path) -> None:
    found = export_task(run, "digits/0..4", tmp_path / "zero.pt2", to="torch")
    assert found.about["checked"]["difference"] == 0
    torch.save(x := torch.rand(3, 1, 8, 8), tmp_path / "x.pt")
    program = """
import sys, torch
sys.modules["polymask"] = None
extra = {"polymask.json": ""}
network = torch.export.load("zero.pt2", extra_files=extra).module()
print(extra["polymask.json"])
torch.save(network(torch.load("x.pt")).detach(), "y.pt")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["labels"] == ["0", "1", "2", "3", "4"]
    assert torch.equal(torch.load(tmp_path / "y.pt"), load(run).logits("digits/0..4", x))


@pytest.mark.parametrize("small", [False, True])
def test_weights_come_into_the_network_again(run: Path, tmp_path: Path, small: bool) -> None:
    found = export_task(run, "#1", tmp_path, to="safetensors", prune=small)
    assert found.path == tmp_path / "digits-0..4.safetensors"
    x, network = torch.rand(3, 1, 8, 8), load_weights(found.path)
    expected = load(run).logits("digits/0..4", x)
    torch.testing.assert_close(network(x), expected)
    assert small or torch.equal(network(x), expected)
    assert (
        found.about["parameters"] < sum(p.numel() for p in load(run).bank.plain("digits/0..4").parameters())
    ) == small
    with safe_open(found.path, "pt") as opened:
        words = opened.metadata()
    assert json.loads(words["builder"])["args"]["name"] == "convnet"
    assert json.loads(words["labels"]) == ["0", "1", "2", "3", "4"]
    with pytest.raises(ValueError, match=r"found '0.weight' in one alone: another network"):
        load_weights(found.path, nn.Sequential(nn.Conv2d(1, 4, 3, bias=False)))


def test_a_flipped_byte_of_weights_is_seen_where_it_can_be(run: Path, tmp_path: Path) -> None:
    found = export_task(run, "#1", tmp_path, to="safetensors")
    data = found.path.read_bytes()
    found.path.write_bytes(data[:-9])
    with pytest.raises(ValueError, match="cut short or changed"):
        load_weights(found.path)


@pytest.mark.parametrize("takes", ["raw", "bytes"])
def test_the_preparation_is_inside_the_graph(photos: Path, tmp_path: Path, takes: str) -> None:
    found = export_task(photos, None, tmp_path, to="torch", takes=takes, shape=(3, 9, 7), base=net())
    network = torch.export.load(found.path).module()
    for height, width in ((9, 7), (8, 8), (20, 5)):
        x = torch.randint(256, (2, 3, height, width), dtype=torch.uint8)
        x = x / 255 if takes == "raw" else x
        assert torch.equal(network(x), load(photos, net()).logits("photos", x))
    assert found.about["inputs"][0]["shape"] == ["batch", 3, "height", "width"]
    assert "prepared inside the graph" in str(found)


def test_the_preparation_stands_beside_the_graph(photos: Path, tmp_path: Path) -> None:
    found = export_task(photos, "photos", tmp_path, to="torch", takes="prepared", fold=True, base=net())
    beside = json.loads(Path(f"{found.path}.json").read_text())
    x = torch.randint(256, (2, 3, 9, 7), dtype=torch.uint8)
    prepared = Inputs.from_json(beside["preparation"])(x)
    answer = torch.export.load(found.path).module()(prepared)
    torch.testing.assert_close(answer, load(photos, net()).logits("photos", x))
    assert beside["folded"].startswith("1 of 1 BatchNorm folded")
    assert "stands in the json beside" in str(found)
    assert HERE not in found.path.read_bytes()


def test_no_file_is_replaced_unless_one_says_so(photos: Path, tmp_path: Path) -> None:
    found = export_task(photos, "photos", tmp_path, to="torch", base=net())
    before = found.path.read_bytes()
    with pytest.raises(FileExistsError, match=r"found one: give --overwrite, or another --out"):
        export_task(photos, "photos", tmp_path, to="torch", base=net())
    assert found.path.read_bytes() == before
    again = export_task(photos, "photos", tmp_path, to="torch", takes="prepared", overwrite=True, base=net())
    assert found.path.read_bytes() != before
    assert again.about["takes"] == "prepared"
    assert files(tmp_path) == [found.path.name, f"{found.path.name}.json"]


def test_a_file_that_answers_otherwise_is_not_left(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = program.opened

    def wrong(data: bytes) -> Callable[..., Tensor]:
        return lambda leaves: right(data)(leaves) + 0.01

    monkeypatch.setattr(program, "opened", wrong)
    with pytest.raises(ValueError, match=r"expected torch .* to answer as the task does, .* 0.01 off; no file"):
        export_task(photos, "photos", tmp_path, to="torch", base=net())
    assert files(tmp_path) == []


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", [1, 3])
def test_a_write_that_is_stopped_leaves_what_was_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, when: int
) -> None:
    """The first call is for the json, the third for the file."""
    done = os.fsync
    calls: list[int] = []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == when:
            raise stop
        done(file)

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(type(stop)):
            export_task(photos, "photos", tmp_path, to="safetensors", base=net())
    assert files(tmp_path) == []
    found = export_task(photos, "photos", tmp_path, to="safetensors", base=net())
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    calls.clear()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(type(stop)):
        export_task(photos, "photos", found.path, to="safetensors", batch=2, overwrite=True, base=net())
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before


class Branch(nn.Module):
    """A forward that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = self.body(x).relu()
        return self.head(2 * h if h.sum() > 0 else h)


class Rows(nn.Module):
    """A forward that takes four rows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.rows = nn.Linear(6, 5), nn.Linear(5, 3), nn.Buffer(torch.ones(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.body(x) + self.rows)


def test_a_network_that_cannot_be_followed_is_refused_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    x = torch.randn(4, 6)
    bank = bank_of(PackNet(Branch(), x), tmp_path / "a", x)
    with pytest.raises(ValueError, match=r"torch.export can follow.*--to safetensors, and run the network's own code"):
        export_task(bank, "a", to="torch", base=Branch())
    assert export_task(bank, "a", to="safetensors", base=Branch()).about["checked"]["difference"] == 0
    bank = bank_of(PackNet(Rows(), x), tmp_path / "b", x)
    # The bank knows that it takes its own number of rows alone.
    assert export_task(bank, "a", to="torch", base=Rows()).about["inputs"][0]["shape"] == [4, 6]
    with pytest.raises(ValueError, match=r"takes any number of rows.* with --batch 4"):
        export_task(bank, "b", to="torch", base=Rows(), example=x)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_meant_is_said(run: Path, photos: Path, tmp_path: Path) -> None:
    for how, words in (
        ({"to": "safetensors", "fold": True}, "for which a graph is needed"),
        ({"to": "torch", "prune": True, "base": net()}, "found task 'photos' of packnet, which masks single weights"),
        ({"to": "torch", "shape": (3, 9), "base": net()}, "expected --shape like 1 8 8, which the network reads"),
        ({"to": "torch", "takes": "prepared", "shape": (1, 9, 9), "base": net()}, "with raw inputs alone"),
        ({"to": "torch"}, "bring the network as base="),
    ):
        with pytest.raises(ValueError, match=words):
            export_task(photos, "photos", tmp_path, **how)
    with pytest.raises(ValueError, match="does not say that others are brought to it"):
        export_task(run, "#1", tmp_path, to="torch", shape=(3, 8, 8))
    with pytest.raises(KeyError, match="found none named: give --task"):
        export_task(run, out=tmp_path)
    assert files(tmp_path) == []


def test_a_file_is_not_named_as_another_format_is(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a file \.safetensors for safetensors, found .*x\.onnx"):
        export_task(run, "#1", tmp_path / "x.onnx", to="safetensors")
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"onnxscript .* pip install 'polymask\[onnx\]', or export it --to torch"
    ):
        export_task(run, "#1")


def test_a_head_that_all_share_is_cut_to_the_outputs_of_the_task(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_named("supsup", "digits", tasks=[[0, 1], [2, 3, 4]], model="mlp", out=str(out), training=Training(epochs=1))
    x = torch.rand(2, 1, 8, 8)
    found = torch.export.load(export_task(out, "#1", to="torch").path).module()(x)
    assert found.shape == (2, 2)
    assert torch.equal(found, load(out).logits("digits/0-1", x))


@pytest.mark.parametrize(
    "name",
    [n if n == "wsn" else pytest.param(n, marks=pytest.mark.full) for n, kind in METHODS.items() if not kind.needs],
)
def test_tasks_of_every_method_keep_their_bits(name: str, tmp_path: Path) -> None:
    base, example = zoo.BACKBONES["mlp_bn"]()
    method, _ = drive.make(METHODS[name], "mlp_bn")
    bank = bank_of(method, tmp_path, method.example, 3)
    for task in "ac":
        found = export_task(bank, task, to="torch", base=base)
        assert found.about["checked"]["difference"] == 0
    assert torch.equal(torch.export.load(found.path).module()(example), method.plain("c")(example))


def test_a_task_that_grew_is_as_narrow_as_it_was_learned(tmp_path: Path) -> None:
    base, _ = zoo.BACKBONES["mlp_bn"]()
    method, _ = drive.make(METHODS["tfm"], "mlp_bn")
    bank = bank_of(method, tmp_path, method.example)
    first, last = (export_task(bank, task, to="safetensors", prune=True, base=base) for task in "ab")
    (whole, own), (_, all_of_it) = (found.about["pruned"]["shared_parameters"] for found in (first, last))
    assert own < all_of_it == whole
    assert first.about["parameters"] < last.about["parameters"]
    assert "as narrow as it was learned" in str(first)
    assert load_weights(last.path, base)[0].out_features == 32


@pytest.mark.full
@pytest.mark.parametrize("to", ["torch", "onnx"])
@pytest.mark.parametrize("name", ["timm_resnet", "timm_vit", "encoder", "tied_bert", "minilm", "lstm"])
def test_networks_of_others(name: str, to: str, tmp_path: Path) -> None:
    base, _ = zoo.BACKBONES[name]()
    method, _ = drive.make(HAT if name in ("timm_resnet", "encoder") else PackNet, name)
    bank = bank_of(method, tmp_path, method.example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = export_task(bank, "b", to=to, base=base, prune=method.name == "hat", fold=True)
    if method.name == "hat":
        assert found.about["pruned"]["taken_out"] > 0
    if name == "timm_resnet":
        assert found.about["folded"].startswith("15 of 15 BatchNorm folded")
    if name == "minilm":
        assert [one["shape"] for one in found.about["inputs"]] == [["batch", "length"]] * 2


def test_from_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "small.pt2")
    assert main(["export", str(run), "--task", "#2", "--to", "torch", "--prune", "--out", out]) == 0
    said = capsys.readouterr().out
    for words in ("task 'digits/5..9' of hat: 5 outputs (5, 6, 7, 8, 9)", "parameters: ", "time: ", "checked: torch"):
        assert words in said
    assert main(["export", str(run), "--task", "#2", "--to", "torch", "--out", out]) == 1
    assert "give --overwrite" in capsys.readouterr().err
    assert main(["export", str(run), "--task", "#9"]) == 2
    assert "#9, a place that no task has had" in capsys.readouterr().err
    assert main(["export", str(run), "--to", "tflite"]) == 2
