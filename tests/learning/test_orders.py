"""One stream under several orders: what feels no order to the bit, what does, and the noise of seeds beside it."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import yaml
from tests.learning.small import assert_same

from polymask.cli.main import main
from polymask.learning import compare as compare_module
from polymask.learning.figures.table import as_table, rows, write_orders
from polymask.learning.options import Refused, run_folder
from polymask.learning.orders.draw import NAMED, orders_of
from polymask.learning.orders.plan import Plan, read_plan
from polymask.learning.orders.robustness import Robustness, as_text, final_scores, robustness_of
from polymask.learning.orders.run import announce, compare_orders
from polymask.learning.train import session
from polymask.learning.train.loop import NotFinite
from polymask.learning.training import Training
from polymask.loaded import load
from polymask.pages.runs import run_folders
from polymask.pages.write import write_report
from polymask.parts.seeds import generator
from polymask.report.table import table
from polymask.streams.by_name import make_stream

FREE = ("ksm", "piggyback", "supsup", "linear_probe", "independent")
"""Methods that learn no task from another, where their backbone is given."""

STREAM: dict[str, Any] = {"tasks": [[0, 1], [2, 3], [4, 5, 6]]}
SAME: dict[str, Any] = {
    **STREAM,
    "training": Training(epochs=1, quiet=True, lr=0.02),
    "net": {"hidden": [8]},
    "weights": "random",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two orders with one seed, and another one for the noise floor."""
    out = tmp_path_factory.mktemp("orders")
    compare_orders([*FREE, "finetune"], [0], out, 2, **SAME)
    return out


def read(out: Path) -> dict[str, dict[str, Any]]:
    """Method -> its row of table.json."""
    return {row["method"]: row for row in json.loads((out / "table.json").read_text())}


def same_logits(out: Path, method: str, orders: Sequence[int], stream: dict[str, Any]) -> bool:
    """Whether every task's logits are the same bits under all of these orders."""
    first, *others = (load(out / run_folder(method, 0, order)) for order in orders)
    shape = (20, stream.get("channels", 1), *stream.get("size", (8, 8)))
    inputs = torch.rand(shape, generator=generator("orders"))
    names = [task.name for task in make_stream("digits", **stream)]
    return all(torch.equal(first.logits(task, inputs), one.logits(task, inputs)) for one in others for task in names)


@pytest.mark.parametrize("method", FREE)
def test_a_method_that_learns_no_task_from_another_feels_no_order(folder: Path, method: str) -> None:
    found = read(folder)[method]
    assert (found["aopd"], found["mopd"], list(found["opd"].values())) == (0, 0, [0, 0, 0])
    assert same_logits(folder, method, (0, 1), STREAM)
    assert found["noise_floor"]["mean"] > 0


def test_what_goes_on_training_one_network_feels_it(folder: Path) -> None:
    found = read(folder)["finetune"]
    assert 0 < found["aopd"] <= found["mopd"] == max(found["opd"].values())
    assert found["aopd"] == pytest.approx(fmean(found["opd"].values()))
    assert not same_logits(folder, "finetune", (0, 1), STREAM)


def test_the_figures_are_those_of_the_runs_task_by_name(folder: Path) -> None:
    runs = [json.loads((folder / run_folder("finetune", 0, order) / "results.json").read_text()) for order in (0, 1)]
    assert runs[0]["tasks"] != runs[1]["tasks"]
    ends = [dict(zip(run["tasks"], run["accuracy_at_the_end"], strict=True)) for run in runs]
    expected = {task: abs(ends[0][task] - ends[1][task]) for task in ends[0]}
    assert read(folder)["finetune"]["opd"] == pytest.approx(expected)
    with (folder / "orders.csv").open(newline="") as file:
        lines = [one for one in csv.DictReader(file) if one["method"] == "finetune"]
    assert {one["task"]: [float(one["order_0"]), float(one["order_1"])] for one in lines} == {
        task: [end[task] for end in ends] for task in ends[0]
    }
    other = json.loads((folder / "finetune-1" / "results.json").read_text())
    by_seed = dict(zip(other["tasks"], other["accuracy_at_the_end"], strict=True))
    floor = {task: abs(ends[0][task] - by_seed[task]) for task in by_seed}
    assert read(folder)["finetune"]["opd_noise_floor"] == pytest.approx(floor)
    assert {one["task"]: float(one["noise_floor"]) for one in lines} == pytest.approx(floor)


def test_every_run_says_its_order_and_a_row_of_runs_csv_which(folder: Path) -> None:
    plan = read_plan(folder)
    assert plan is not None
    assert (plan.orders, plan.seeds, plan.floor) == (orders_of(2, 3), (0,), (0, 1))
    found = [yaml.safe_load((folder / run_folder("ksm", 0, order) / "config.yaml").read_text()) for order in (0, 1)]
    assert [one["order"] for one in found] == [[], list(plan.orders[1])]
    with (folder / "runs.csv").open(newline="") as file:
        lines = [(one["order"], one["seed"]) for one in csv.DictReader(file) if one["method"] == "ksm"]
    assert lines == [(order, seed) for order, seed in (("0", "0"), ("1", "0"), ("0", "1")) for _ in range(3)]


def test_the_table_is_of_the_first_order_and_of_the_seeds_that_were_asked_for(folder: Path) -> None:
    found = json.loads((folder / "ksm-0" / "results.json").read_text())["average_accuracy"]
    assert read(folder)["ksm"]["average_accuracy"] == {"mean": found, "std": None, "n": 1}
    for name in ("table.md", "table.tex"):
        text = (folder / name).read_text()
        assert "AOPD (noise floor)" in text
        assert f"0.0000 ({read(folder)['ksm']['noise_floor']['mean']:.4f})" in text
    assert {method: [one.name for one in places] for method, places in run_folders(folder).items()} == {
        method: [f"{method}-0"] for method in read(folder)
    }


def test_seeds_of_the_floor_count_once_a_comparison_asks_for_them(tmp_path: Path) -> None:
    for name in ("hat-0", "hat-1", "hat-1-order-1", "my-0-5", "hat-0-order-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    Plan(((0, 1), (1, 0)), (0,)).write(tmp_path)
    found = lambda: {method: [one.name for one in places] for method, places in run_folders(tmp_path).items()}  # noqa: E731
    assert found() == {"hat": ["hat-0"], "my-0": ["my-0-5"]}
    (tmp_path / "table.json").write_text(json.dumps([{"method": "hat", "seeds": [0, 1]}]))
    assert found() == {"hat": ["hat-0", "hat-1"], "my-0": ["my-0-5"]}


def test_the_page_shows_the_disparity_and_its_noise(folder: Path) -> None:
    text = write_report(folder, folder / "page.html").read_text()
    found = read(folder)["finetune"]
    cells = [found["aopd"], found["noise_floor"]["mean"], found["mopd"], found["noise_floor"]["max"]]
    assert "".join(f"<td>{value:.4f}</td>" for value in cells) in "".join(text.split())
    assert "The order of tasks changes nothing under ksm, piggyback, supsup, linear_probe and independent." in text
    assert "On which task" in text


def test_a_damaged_plan_is_a_sentence_on_the_page(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pictures are put together and not drawn.
    empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **how: file.write(empty))
    shutil.copytree(folder / "ksm-0", tmp_path / "ksm-0")
    for damage in ('{"orders": [[0, 0], [1, 0]], "seeds": [0]}', "[]", '{"orders": 3}', '{"orders": [[0, 1'):
        (tmp_path / "orders.json").write_text(damage)
        with pytest.raises(ValueError, match=r"in orders.json, found it cut short or changed"):
            read_plan(tmp_path)
    text = write_report(tmp_path).read_text()
    assert "expected orders and seeds in orders.json, found it cut short or changed" in text
    assert "What the order" not in text
    Plan(((0, 1, 2), (2, 1, 0)), (0,)).write(tmp_path)
    assert "No method has ended under all orders yet." in write_report(tmp_path).read_text()


def test_a_stopped_comparison_goes_on_to_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, real = [4], session.train_phase

    def stops(*args: Any) -> float:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(session, "train_phase", stops)
        with pytest.raises(KeyboardInterrupt):
            compare_orders(["linear_probe"], [0], tmp_path, 2, **SAME)
    lines: list[str] = []
    _, found = compare_orders(["linear_probe"], [0], tmp_path, 2, say=lines.append, **SAME)
    assert lines[0].endswith("3 runs, 3 times a comparison of one order; 1 finished already.")
    for name in ("linear_probe-0", "linear_probe-0-order-1", "linear_probe-1"):
        assert_same(tmp_path / name, folder / name)
    with monkeypatch.context() as patch:
        patch.setattr(session, "train_phase", lambda *_: pytest.fail("learned again"))
        assert compare_orders(["linear_probe"], [0], tmp_path, 2, **SAME)[1] == found


def test_a_run_that_fails_leaves_no_disparity_of_its_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = compare_module.run_named

    def breaks(method: str, **how: Any) -> dict[str, Any]:
        if method == "finetune" and how["order"]:
            raise NotFinite("expected finite numbers, found NaN")
        return real(method, **how)

    monkeypatch.setattr(compare_module, "run_named", breaks)
    line = "compare --methods finetune linear_probe joint --weights random --orders 2 --tasks 2 --epochs 1 --quiet"
    assert main([*line.split(), "--net.hidden", "[8]", "--out", str(tmp_path)]) == 1
    found = read(tmp_path)
    assert (found["finetune"]["aopd"], found["finetune"]["opd"]) == (None, {})
    assert found["finetune"]["noise_floor"]["mean"] > 0
    assert (found["linear_probe"]["aopd"], found["joint"]["aopd"], found["joint"]["noise_floor"]["mean"]) == (
        0,
        None,
        None,
    )
    assert "found NaN" in (tmp_path / "runs.csv").read_text()
    # Joint training learns all tasks at once.
    assert sorted(place.name for place in tmp_path.glob("joint-*")) == ["joint-0"]


def test_what_will_be_run_is_said_before_it_is(tmp_path: Path) -> None:
    plan = Plan(orders_of(5, 4), (0, 1))
    first, *orders = announce(plan, ["ksm", "finetune", "joint"], tmp_path)
    assert first == (
        "2 methods under 5 orders with 2 seeds, and under the first order with 3 seeds more for the noise floor, and "
        "joint training, which has no order: 28 runs, 4.7 times a comparison of one order; 0 finished already."
    )
    assert orders[0] == "Order 0: 0 1 2 3"
    assert len(orders) == 5
    assert "noise floor" not in announce(Plan(orders_of(2, 4), (0, 1)), ["ksm"], tmp_path)[0]


def test_a_comparison_without_a_noise_floor_runs_orders_alone_and_says_so_when_read_again(tmp_path: Path) -> None:
    plan = Plan(orders_of(3, 4), (0,), measures_floor=False)
    assert plan.runs == [(0, 0), (1, 0), (2, 0)]
    assert "3 runs" in announce(plan, ["ksm"], tmp_path)[0]
    plan.write(tmp_path)
    assert read_plan(tmp_path) == plan
    ended = {"tasks": ["a", "b"], "accuracy_at_the_end": [0.5, 0.25]}
    found = robustness_of(plan, dict.fromkeys(plan.runs, ended))
    assert (found.aopd, math.isnan(found.floor)) == (0.0, True)
    assert as_text(found) == {"AOPD (noise floor)": "0.0000 (-)", "MOPD (noise floor)": "0.0000 (-)"}


def test_drawn_orders_are_always_the_same_and_all_different() -> None:
    assert orders_of(4, 6) == orders_of(6, 6)[:4]
    assert sorted(orders_of(6, 3)) == [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    turned = orders_of(6, 3, own=[2, 0, 1])
    assert turned[0] == (2, 0, 1)
    assert len(set(turned)) == 6


def test_the_orders_of_apd_are_five_of_ten_tasks() -> None:
    assert orders_of("apd", 10) == NAMED["apd"]
    assert len(NAMED["apd"]) == 5
    assert all(sorted(order) == list(range(10)) for order in NAMED["apd"])
    assert len({order[0] for order in NAMED["apd"]}) == 5


@pytest.mark.parametrize(
    ("asked", "tasks", "own", "said"),
    [
        (1, 3, (), "expected at least 2 orders, found orders=1: ask for more, or leave it out"),
        (7, 3, (), "expected at most 6 orders, all that 3 tasks have, found orders=7: ask for fewer"),
        (2, 1, (), "expected a stream of two tasks or more for several orders, found one of a single task"),
        ("apb", 10, (), "expected a number of orders, their places or a paper's name, found 'apb': did you mean apd"),
        ("apd", 5, (), "expected a stream of 10 tasks for orders='apd', found 5 tasks: make the stream as long, or"),
        ("apd", 10, (1, 0), r"expected orders alone, found order=\[1, 0\] beside them"),
        ([[0, 1]], 2, (), "expected at least 2 orders, found 1"),
        ([[0, 1], [1, 1]], 2, (), r"expected orders of the places 0..1, each once, found \[1, 1\]"),
        ([[0, 1], [0, 1]], 2, (), r"expected orders that differ, found \[0, 1\] twice"),
    ],
)
def test_orders_that_a_stream_does_not_have(asked: Any, tasks: int, own: Sequence[int], said: str) -> None:
    with pytest.raises(Refused, match=said):
        orders_of(asked, tasks, own)


def test_joint_training_alone_has_no_order(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="expected a method that learns task after task for several orders, found joint"):
        compare_orders(["joint"], [0], tmp_path, 2, **SAME)


def test_an_order_of_another_comparison_is_refused(folder: Path) -> None:
    before = (folder / "orders.json").read_bytes()
    with pytest.raises(ValueError, match=r"order: .* there, .* now"):
        compare_orders(["ksm"], [0], folder, [[0, 1, 2], [0, 2, 1]], **SAME)
    (folder / "orders.json").write_bytes(before)


def report(tasks: str, *scores: float | None) -> dict[str, Any]:
    """What a run says of its tasks, a letter each."""
    return {"tasks": list(tasks), "accuracy_at_the_end": list(scores)}


def test_scores_are_averaged_over_seeds_before_orders_are_compared() -> None:
    plan = Plan(((0, 1), (1, 0)), (3, 4))
    runs = {(0, 3): report("ab", 0.0, 0.5), (0, 4): report("ab", 1.0, 0.5)}
    runs |= {(1, 3): report("ba", 0.5, 1.0), (1, 4): report("ba", 0.25, 0.0)}
    found = robustness_of(plan, runs)
    assert found.finals == {"a": [0.5, 0.5], "b": [0.5, 0.375]}
    assert (found.opd, found.aopd, found.mopd) == ({"a": 0, "b": 0.125}, 0.0625, 0.125)
    # The noise floor is of single seeds.
    assert (found.noise, found.floor, found.highest_floor) == ({"a": 1, "b": 0}, 0.5, 1)


def test_identical_runs_have_no_disparity_and_the_mean_is_never_above_the_largest() -> None:
    plan, run = Plan(orders_of(4, 3), (0, 1, 2)), report("abc", 0.1, 0.7, 1 / 3)
    found = robustness_of(plan, dict.fromkeys(plan.runs, run))
    assert (found.aopd, found.mopd, found.floor) == (0, 0, 0)
    same = Robustness({task: [0.0, 0.1] for task in "abc"})
    assert same.aopd <= same.mopd


def test_a_run_that_is_missing_unfinished_or_of_other_tasks_is_no_number() -> None:
    plan, whole = Plan(((0, 1), (1, 0)), (0,)), report("ab", 0.5, 0.5)
    for other in (None, {"error": "NaN", "seconds": None}, report("ba", 0.5, None), report("ac", 0.5, 0.5), {}):
        runs = {(0, 0): whole, (0, 1): whole} | ({} if other is None else {(1, 0): other})
        found = robustness_of(plan, runs)
        assert (found.opd, math.isnan(found.aopd), math.isnan(found.mopd), found.floor) == ({}, True, True, 0)
    assert final_scores({"tasks": ["a"], "accuracy_at_the_end": [math.nan]}) == {}
    row = rows({"hat": [{"error": "NaN", "seconds": None}]}, {"hat": Robustness()})[0]
    assert (row["AOPD (noise floor)"], row["MOPD (noise floor)"]) == (None, None)


def test_the_files_of_several_orders(tmp_path: Path) -> None:
    plan, ended = Plan(((0, 1), (1, 0), (0, 1)), (3,), measures_floor=False), report("ab", 0.5, 0.25)
    runs = {"hat": {(0, 3): ended, (1, 3): report("ba", 0.5, 0.75), (2, 3): ended}, "joint": {(0, 3): ended}}
    robust = {"hat": robustness_of(plan, runs["hat"])}
    write_orders(tmp_path, {"hat": [ended], "joint": [ended]}, [3], robust, runs)
    found = {one.name: one.read_text().splitlines() for one in tmp_path.iterdir()}
    assert set(found) == {"table.md", "table.tex", "table.json", "runs.csv", "orders.csv"}
    assert found["orders.csv"] == [
        "method,task,opd,noise_floor,order_0,order_1,order_2",
        "hat,a,0.25,,0.5,0.75,0.5",
        "hat,b,0.25,,0.25,0.5,0.25",
    ]
    header, *lines = found["runs.csv"]
    assert header == "method,seed,order,task,place,when_learned,at_the_end,logit_drift,bytes,seconds,error"
    assert [line.split(",")[:5] for line in lines] == [
        ["hat", "3", "0", "a", "0"],
        ["hat", "3", "0", "b", "1"],
        ["hat", "3", "1", "b", "0"],
        ["hat", "3", "1", "a", "1"],
        ["hat", "3", "2", "a", "0"],
        ["hat", "3", "2", "b", "1"],
        ["joint", "3", "0", "a", "0"],
        ["joint", "3", "0", "b", "1"],
    ]
    assert [line.split(",")[6] for line in lines[:2]] == ["0.5", "0.25"]
    assert [row["aopd"] for row in json.loads((tmp_path / "table.json").read_text())] == [0.25, None]
    assert all("0.2500 (-)" in "".join(found[name]) for name in ("table.md", "table.tex"))


@pytest.mark.parametrize(("count", "shown"), [(0, False), (1, True), (20, True), (21, False)])
def test_the_disparity_of_each_of_a_few_tasks_is_shown_on_a_terminal(count: int, shown: bool) -> None:
    found = {"hat": Robustness({f"task {k}": [0.5, 0.62505] for k in range(count)})}
    text = as_table({"hat": [report("ab", 0.5, 0.5)]}, found)
    head, _, each = text.partition("\n\nOPD of each task:\n")
    assert head == table(rows({"hat": [report("ab", 0.5, 0.5)]}, found))
    assert bool(each) == shown
    assert each.count("0.1250") + each.count("0.1251") == (count if shown else 0)
    assert shown or text == head


def test_a_table_of_one_order_has_no_disparity() -> None:
    assert as_table({"hat": [report("ab", 0.5, 0.5)]}) == table(rows({"hat": [report("ab", 0.5, 0.5)]}))


def test_as_many_seeds_as_orders_make_the_floor() -> None:
    orders = orders_of(3, 4)
    assert Plan(orders, (5, 1)).floor == (5, 1, 0)
    assert Plan(orders, (0, 1, 2, 3)).floor == (0, 1, 2)
    assert Plan(orders, (0, 0)).floor == (0, 1, 2)
    assert len(Plan(orders, (0, 1, 2, 3)).runs) == 12


WIDER: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in FREE},
    "piggyback, ternary": ("piggyback", {"values": "ternary", "start": "magnitude", "norms": "private"}),
    "piggyback, units": ("piggyback", {"granularity": "unit"}),
    "ksm, hard groups": ("ksm", {"granularity": "group", "soft": False}),
    "supsup, threshold": ("supsup", {"select": "threshold", "heads": "private"}),
    "linear_probe, norms": ("linear_probe", {"norms": "private"}),
}


@pytest.mark.full
@pytest.mark.parametrize("name", WIDER)
def test_no_order_is_felt_with_norms_unlike_heads_augmentation_and_two_seeds(name: str, tmp_path: Path) -> None:
    method, options = WIDER[name]
    stream: dict[str, Any] = {"classes_per_task": [2, 3, 5], "size": (12, 12), "channels": 3}
    same: dict[str, Any] = {"size": (12, 12), "channels": 3, "how": {"classes_per_task": [2, 3, 5]}, "flip": True}
    same |= {"model": "convnet", "net": {"widths": [4, 8]}, "weights": "random"}
    same |= {"training": Training(epochs=1, quiet=True, lr=0.02)}
    _, found = compare_orders([method], [0, 1], tmp_path, 3, options={method: options}, **same)
    assert found[method].mopd == 0
    assert same_logits(tmp_path, method, (0, 1, 2), stream)
    assert found[method].floor > 0
