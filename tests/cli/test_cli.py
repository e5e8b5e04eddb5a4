"""The command line: what it prints, what it forgives, and the code with which it ends."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import torch
import yaml

import polymask
from polymask.cli.main import COMMANDS, main
from polymask.cli.parsers import parser_of
from polymask.loaded import load
from polymask.methods import METHODS
from polymask.nets import build_net

QUICK = ["--tasks", "2", "--epochs", "1"]
PROGRAM = [sys.executable, "-m", "polymask.cli.main"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """The exit code and the one line on stderr."""
    code = main(argv)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return code, lines[0]


def report(folder: str) -> dict[str, object]:
    """What a run says of itself."""
    return json.loads((Path(folder) / "results.json").read_text())


def test_a_run_needs_no_more_than_a_method_and_a_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--method", "piggyback", "--stream", "digits", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "digits/5..9" in out
    assert "largest logit drift 0" in out
    found = report("runs/piggyback-digits-0")
    assert found["finished"] == ["digits/0..4", "digits/5..9"]
    assert found["max_logit_drift"] == 0
    assert found["options"]["backbone"] == "first-task"


def test_every_option_of_a_stream_and_a_network_reaches_the_run() -> None:
    argv = ["--method=packnet", "--stream", "digits-rotated", "--degrees", "0", "90", *QUICK, "--order", "1", "0"]
    more = ["--model", "convnet", "--net.widths", "[4]", "--lr", "0.01", "--seed", "3", "--precision", "bf16-mixed"]
    assert main(["run", *argv, *more, "--optimizer", "sgd", "--norms", "private", "--out", "run"]) == 0
    assert report("run")["tasks"] == ["digits/rotated-90", "digits/rotated-0"]
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["polymask"] == polymask.__version__
    assert (config["net"], config["seed"], config["order"], config["options"]["norms"]) == (
        {"widths": [4], "pool": True},
        3,
        [1, 0],
        "private",
    )
    assert load("run").bank.model().model.head.in_features == 4


@pytest.mark.parametrize("argv", ["--ratio 0.5 0.75", "--ratio 0.5,0.75", "--options.ratio=[0.5,0.75]"])
def test_packnets_ratio_is_one_number_or_one_a_task(argv: str) -> None:
    assert main(["run", "--method", "packnet", "--stream", "digits", *QUICK, *argv.split(), "--out", "run"]) == 0
    assert report("run")["options"]["ratio"] == [0.5, 0.75]


def test_what_is_done_to_images_and_to_single_phases_reaches_the_run() -> None:
    argv = ["run", "--method", "packnet", *QUICK, "--crop", "1", "--flip", "true", "--area", "0.5", "--mean", "0.5"]
    assert (
        main([*argv, "--std", "0.25", "--schedule", "step", "--phases", '{"retrain": {"epochs": 2}}', "--out", "a"])
        == 0
    )
    assert main(["run", "--config", "a/config.yaml", "--out", "b"]) == 0
    assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()
    inputs = load("a").bank.record("digits/0..4").meta.inputs
    assert {"mean": [0.5], "std": [0.25], "crop": 1, "flip": True, "area": 0.5}.items() <= inputs.items()
    phases = [line.split(",")[1] for line in Path("a/epochs.csv").read_text().splitlines()[1:]]
    assert phases.count("retrain") == 2 * phases.count("train")


def test_groups_of_classes_and_uneven_splits_reach_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--epochs", "1", "--method", "linear-probe", "--weights", "random", "--quiet"]
    assert main(["run", "--groups", "7,1/0,2,9", "--out", "a", *short]) == 0
    assert report("a")["tasks"] == ["digits/7-1", "digits/0-2-9"]
    assert main(["run", "--classes-per-task", "2", "3", "5", "--out", "b", *short]) == 0
    assert report("b")["tasks"] == ["digits/0-1", "digits/2-3-4", "digits/5..9"]
    assert main(["run", "--config", "b/config.yaml", "--out", "b", "--log-every", "1", "--logger", "csv"]) == 0
    assert main(["add", "a", "--groups", "3,4", "--epochs", "1", "--quiet"]) == 0
    assert report("a")["tasks"][2:] == ["digits/3-4"]
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("Files:") == 4


def test_the_file_that_a_run_writes_starts_the_same_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--method", "linear-probe", *QUICK, "--lr", "0.01", "--out", "a"]) == 0
    assert main(["run", "--config", "a/config.yaml", "--out", "b"]) == 0
    assert main(["run", "--config", "a/config.yaml", "--out", "a"]) == 0
    assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()
    assert report("a")["accuracy"] == report("b")["accuracy"]
    capsys.readouterr()
    code, line = complaint(capsys, "run", "--config", "a/config.yaml", "--out", "a", "--lr", "0.02")
    assert code == 1
    assert "lr: 0.01 there, 0.02 now" in line


def test_one_more_task_later_and_both_proofs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--method", "piggyback", *QUICK, "--out", "run"])
    before = report("run")
    new = ["--stream", "digits-rotated", "--tasks", "2", "--task", "digits/rotated-10", "--epochs", "1"]
    assert main(["add", "run", *new]) == 0
    after = report("run")
    assert after["tasks"] == [*before["tasks"], "digits/rotated-10"]
    assert after["accuracy"][1][:2] == before["accuracy"][1]
    assert after["accuracy"][2][:2] == before["accuracy"][1]
    assert after["source"][2] == ["proved", "proved", "measured"]
    assert after["max_logit_drift"] == 0
    assert main(["verify", "run"]) == 0
    assert "verified: nothing was forgotten" in capsys.readouterr().out
    assert load("run").predict("digits/rotated-10", torch.rand(3, 1, 8, 8)).shape == (3,)
    assert complaint(capsys, "add", "run", *new) == (
        2,
        "polymask: error: expected a new task, found digits/rotated-10, which run has already",
    )


def test_a_run_goes_on_beside_the_tasks_that_were_added() -> None:
    main(["run", "--method", "piggyback", *QUICK, "--out", "run"])
    main(["add", "run", "--stream", "digits-rotated", "--tasks", "1", "--epochs", "1"])
    added = report("run")
    assert main(["run", "--method", "piggyback", *QUICK, "--out", "run"]) == 0
    assert report("run") == added


def test_packnet_without_free_weights_warns_and_learns_a_head() -> None:
    main(["run", *QUICK, "--out", "run"])
    with pytest.warns(UserWarning, match="no free weight is left for task 'digits/rotated-0'"):
        assert main(["add", "run", "--stream", "digits-rotated", "--tasks", "1", "--epochs", "1"]) == 0
    assert main(["verify", "run"]) == 0


def test_a_damaged_bank_is_not_verified(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--method", "linear_probe", *QUICK, "--out", "run"])
    largest = max(Path("run/bank").glob("*.safetensors"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[-1] ^= 1
    largest.write_bytes(data)
    assert main(["verify", "run"]) == 1
    assert "NOT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("rnu", "no command 'rnu': did you mean run?"),
        ("run --method pakcnet", "no method 'pakcnet': did you mean packnet?"),
        ("run --stream digit-rotated", "no stream 'digit-rotated': did you mean digits-rotated?"),
        ("run --epoch 3", "unknown option --epoch: did you mean --epochs?"),
        ("run --data_rot x", "unknown option --data-rot: did you mean --data-root?"),
        ("run --raito 0.5", "unknown option --raito: did you mean --ratio?"),
        ("run --options.raito 0.5", "unknown option --options.raito: did you mean --ratio?"),
        (
            "run --method wsn --ratio 0.5",
            "unknown option --ratio: did you mean --density? --ratio is an option of packnet",
        ),
        ("run --method wsn --raito 0.5", "unknown option --raito: did you mean --density?"),
        ("run --sparsity 0.5", "unknown option --sparsity: did you mean --ratio?"),
        ("run --s-max 5", "unknown option --s-max: --s-max is an option of hat and adahat"),
        (
            "run --degres 5",
            "unknown option --degres: did you mean --degrees, an option of the stream digits-rotated and",
        ),
        ("run --learning-rate 5", "unknown option --learning-rate: did you mean --lr?"),
        ("run --seeds 0 1", "unknown option --seeds: did you mean --seed? --seeds is an option of polymask compare"),
        (
            "run --seed 0 1",
            "expected one value for --seed, found 0 1: polymask compare --seeds 0 1 learns with each of",
        ),
        ("run --lr 0.1 0.2 --seed 1", "expected one value for --lr, found 0.1 0.2"),
        ("verify here there", "expected no more words, found 'there'"),
        ("run --quiet perhaps", "expected true or false for --quiet, found perhaps"),
        ("help rnu", "no command 'rnu': did you mean run?"),
        (
            "run --logger tensorbord",
            "expected a logger of csv, tensorboard, wandb, mlflow, or package.module:Class, found",
        ),
        ("run --log-every 0", "expected log_every of at least 1, found 0"),
        ("run --qqq 3", "unknown option --qqq: --help lists those there are"),
        ("run --epochs 0", "expected epochs of at least 1, found 0"),
        ("run --epochs x", "expected a whole number for --epochs, found x"),
        ("run --ratio 2 --epochs 1", "expected a ratio in [0, 1), found 2.0: it is the share that a task gives back"),
        ("run --optimizer foo", "expected one of 'sgd', 'adam', 'adamw', 'rmsprop' for --optimizer, found foo"),
        ("run --config none.yaml", "expected a file for --config, found no none.yaml"),
        ("verify", "the following arguments are required: dir"),
        ("remove runs --task a", "unknown option --task: it is a word without a name, polymask remove DIR TASK"),
        ("roles --method joint", "no method 'joint': there are packnet, "),
        ("compare --methods packnet supsup --norms private", "expected one of --packnet.norms, --supsup.norms, found "),
        ("run --orders 3", "unknown option --orders: --orders is an option of polymask compare"),
        ("compare --orders adp", "expected a whole number or a list or one of 'apd' for --orders, found adp"),
        ("compare --orders apd", "expected a stream of 10 tasks for orders='apd', found 5 tasks: make the stream as"),
        ("compare --orders 1", "expected at least 2 orders, found orders=1: ask for more, or leave it out"),
        ("compare --orders [[0,1],[1,1]] --tasks 2", "expected orders of the places 0..1, each once, found [1, 1]"),
        ("compare --orders 2 --tasks 1", "expected a stream of two tasks or more for several orders, found one of a"),
    ],
)
def test_what_cannot_be_meant_is_one_line_with_the_nearest_name(
    argv: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = complaint(capsys, *argv.split())
    assert code == 2
    assert found.startswith(f"polymask: error: {line}")
    # Nothing is claimed by a command that was wrong: the corrected one finds the folder free.
    assert not list(Path().glob("runs/*/config.yaml"))


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("verify nowhere", "expected the folder of a run or a bank, found no bank.json in nowhere"),
        ("run --data x", "stream 'digits' is over the embedded digits and takes no data"),
        ("run --stream split --data no/set --data-root .", "no data set 'no/set' under the data root"),
        ("run --weights none.pt", "expected a file of weights, 'random', 'pretrained' or 'first-task', found no none"),
        ("run --weights first-task", "expected weights that packnet can start from, found 'first-task'"),
        ("run --method supsup --weights some.pt", "expected weights that supsup can start from, found 'some.pt'"),
        ("run --model nothing:here", "expected package.module:factory that can be imported, found 'nothing:here'"),
        ("run --net.hiden 3", "expected arguments that the network 'mlp' takes"),
        ("add nowhere", "expected the folder of a run or a bank"),
        (
            "run --groups 0,1/2,tree",
            "expected classes of 'digits' (0, 1, 2, 3, 4, 5, 6, 7, 8, 9) in --groups, found 'tree'",
        ),
        ("run --groups 0,1 --tasks 2", "expected one of --tasks, --groups and --classes-per-task, found 2 and 0,1"),
        (
            "run --classes-per-task 2 3",
            "expected classes per task (--classes-per-task) of at least 1 that add up to the 10",
        ),
        (
            "run --tasks 3",
            "the 10 classes of 'digits' make no 3 equal groups; give their sizes (--classes-per-task 4 3 3)",
        ),
        (
            "run --logger wandb",
            "expected the package wandb for --logger wandb, found none: pip install 'polymask[wandb]'",
        ),
    ],
)
def test_what_fails_is_one_line_and_code_1(
    argv: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, found = complaint(capsys, *argv.split())
    assert code == 1
    assert found.startswith(f"polymask: error: {line}")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymask.cli.commands.methods.methods_table", lambda _: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        main(["methods"])


def test_an_unknown_key_of_a_file_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("epoch: 3\n")
    code, line = complaint(capsys, "run", "--config", "run.yaml")
    assert code == 2
    assert line.endswith("unknown key 'epoch' in the file of --config: did you mean epochs?")
    Path("run.yaml").write_text("")
    assert complaint(capsys, "run", "--config", "run.yaml") == (
        2,
        "polymask: error: expected options and their values in run.yaml, found an empty file",
    )


def test_a_file_of_one_method_serves_another_without_its_options(tmp_path: Path) -> None:
    how = {"method": "hat", "stream": "digits", "epochs": 1, "options": {"s_max": 300.0, "c": 0.5}}
    (tmp_path / "hat.yaml").write_text(yaml.safe_dump(how))
    for method in ("hat", "linear-probe", "joint"):
        out = str(tmp_path / method)
        assert main(["run", "--config", str(tmp_path / "hat.yaml"), "--method", method, "--out", out]) == 0
    found = {one.parent.name: yaml.safe_load(one.read_text()) for one in tmp_path.glob("*/config.yaml")}
    assert found["hat"]["options"]["s_max"] == 300
    assert found["joint"]["options"] == {"prefixes": "all"}
    assert {one["epochs"] for one in found.values()} == {1}


@pytest.mark.parametrize("argv", [["--help"], [], ["help"]])
def test_help_lists_the_commands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == (0 if argv else 2)
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_works_anywhere(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    first = capsys.readouterr().out
    for other in (["-h", name], ["help", name]):
        assert main(other) == 0
        assert capsys.readouterr().out == first
    assert f"usage: polymask {name}" in first


def test_help_shows_the_options_of_the_method_and_the_stream(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--method", "supsup", "--stream", "digits-rotated", "--lr", "nonsense", "--help"])
    out = capsys.readouterr().out
    assert "--options.density" in out
    assert "--degrees" in out
    assert "--data-root" in out
    assert "_root" not in out.replace("DATA_ROOT", "")


def test_methods_lists_cards_options_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(kind.card.source in out for kind in METHODS.values())
    assert "density" in out
    guide = re.search(r"docs/choosing\.md", out)
    assert guide is not None
    assert (Path(__file__).parents[2] / guide[0]).exists()


def test_roles_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["roles", "--method", "supsup", "--model", "convnet", "--shape", "3", "16", "16"]) == 0
    out = capsys.readouterr().out
    assert "32 x 3 x 3 x 3" in out
    assert "a norm's statistics" in out
    assert "The head is 'head'." in out


def test_a_network_of_the_users_and_weights_from_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(
        "from polymask.nets import MLP\ndef make(outputs, width=4):\n    return MLP(64, (width,), outputs)\n"
    )
    torch.save(build_net("mlp", (1, 8, 8), 7, hidden=[6]).state_dict(), "weights.pt")
    argv = ["--method", "piggyback", "--model", "mine:make", "--net.width", "6", "--weights", "weights.pt"]
    assert main(["run", *argv, *QUICK, "--out", "run"]) == 0
    kept = load_in(Path.cwd(), "run").bank.model().model.state_dict()["body.1.weight"]
    assert torch.equal(kept, torch.load("weights.pt", weights_only=True)["body.1.weight"])
    capsys.readouterr()
    code, line = complaint(capsys, "run", *argv[:4], "--weights", "weights.pt", *QUICK, "--out", "other")
    assert code == 1
    assert "'body.1.weight' has shape (6, 64), not (4, 64)" in line


def load_in(folder: Path, name: str) -> object:
    """Open a run whose network is built by a module in a folder."""
    sys.path.append(str(folder))
    try:
        return load(name)
    finally:
        sys.path.remove(str(folder))


def test_the_program_starts_without_what_only_learning_needs() -> None:
    script = "import sys; from polymask.cli.main import main; main(['--version']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    version, modules = done.stdout.splitlines()
    assert version == polymask.__version__
    heavy = {"lightning_fabric", "tensorboard", "torchvision", "timm", "transformers", "datasets", "sklearn", "rich"}
    assert not heavy & set(modules.split())


@pytest.mark.parametrize(
    "argv",
    [
        "--help",
        "rnu",
        "run --help",
        "run --method pakcnet",
        "run --epoch 3",
        "run --epochs x",
        "run --method wsn --ratio 3",
        "run --seed 0 1",
        "help run",
        "compare --methods hat,wns",
        "run --method hat --stream digits-rotated --raito 3",
        "methods",
        "methods --method supsup",
        "report --help",
        "report",
    ],
)
def test_what_is_not_run_is_answered_without_torch(argv: str) -> None:
    script = f"import sys; from polymask.cli.main import main; main({argv.split()}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "polymask.methods"} & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "expected package.module:Class that can be imported, found 'other:Mine': No module named 'other'"),
        ("", "expected package.module:Class that can be imported, found 'other:Mine': module 'other' has no attribute"),
        ("def Mine(): pass", "expected a class at 'other:Mine' that inherits from polymask.Method, found Mine"),
        (
            "from polymask import Method\nclass Mine(Method): name = 'mine'",
            "expected 'other:Mine' to have _open, card, recipes, found a class without",
        ),
    ],
)
@pytest.mark.parametrize("command", ["run --method", "compare --methods", "roles --method", "methods --method"])
def test_what_is_no_method_of_ones_own_is_said_in_a_line(
    command: str, text: str | None, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "other", raising=False)
    if text is not None:
        Path("other.py").write_text(text)
    importlib.invalidate_caches()
    code, found = complaint(capsys, *command.split(), "other:Mine")
    assert code == 2
    assert found.startswith(f"polymask: error: {line}")


def test_an_option_of_ones_own_method_is_read_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "typed_method", raising=False)
    Path("typed_method.py").write_text(
        "from collections.abc import Sequence\nfrom polymask import PackNet\nclass Mine(PackNet):\n"
        "    def __init__(self, model, example, *, rates: float | Sequence[float] = (), free=None): pass\n"
    )
    for command, named in (("run", "--method"), ("compare", "--methods"), ("roles", "--method")):
        argv = [named, "typed_method:Mine", "--rates", "1", "2", "--free", "{a: 1e-3}"]
        values = parser_of(command, argv).read(argv)
        assert values["Mine" if command == "compare" else "options"] == {"rates": [1.0, 2.0], "free": {"a": "1e-3"}}


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.full)])
def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(fresh: bool) -> None:
    argv = ["run", "--method", "linear_probe", "--weights", "random", "--tasks", "5", "--out", "run"]
    argv += ["--epochs", "12", "--quiet"]

    def program() -> None:
        """A copy of this process has imported everything; a fresh one takes seconds to."""
        # A test started in the background ignores Ctrl-C, and its children would inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL if fresh else signal.default_int_handler)
        if fresh:
            os.dup2(os.open("err", os.O_CREAT | os.O_WRONLY), 2)
            os.execv(sys.executable, [*PROGRAM, *argv])
        with Path("err").open("w") as err, redirect_stderr(err):
            code = main(argv)
        sys.exit(code)

    process = multiprocessing.get_context("fork").Process(target=program)
    process.start()
    while not Path("run/results.json").exists():
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 130
    assert Path("err").read_text() == "polymask: stopped; finished tasks are on disk, and the same command goes on\n"
    done = len(report("run")["finished"])
    assert 1 <= done < 5
    assert main(argv) == 0
    assert len(report("run")["finished"]) == 5


def test_roles_say_which_masks_on_units_reach_a_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["roles", "--method", "hat", "--model", "convnet"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "rows by body.1; columns always live" in lines["body.0.weight"]
    assert "rows by body.5; columns by body.1" in lines["body.4.weight"]
    assert "its 32 units are masked here" in lines["body.1.weight"]
    assert "rows always live; columns by body.9" in lines["head.weight"]


def test_a_folder_that_is_not_there_is_said_to_be_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = complaint(capsys, "run", "--method", "hat", "--model", "./nothing", "--stream", "digits")
    assert code == 1
    assert "expected a network's name, or the folder of one, found no ./nothing" in line
