"""Does what is finished stay?  Networks of a grammar, four methods, three tasks each: answers compared to the bit."""

from __future__ import annotations

import json
import linecache
import sys
import time
import traceback
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _grammar import OUTPUTS, VARIATIONS, Drawn, drawn
from _guard_cost import cost
from _measure import machine, options, show, threads
from polymask import HAT, TFM, Method, PackNet, Piggyback
from polymask.calling import call, logits_of

METHODS: dict[str, Callable[[nn.Module, Any], Method]] = {
    "hat": partial(HAT, c=0.1),
    "tfm": partial(TFM, growth=2),
    "packnet": partial(PackNet, ratio=0.5),
    "piggyback": partial(Piggyback, granularity="unit"),
}
TASKS, STEPS = "abc", 6
WRONG = ("LEAK", "WRONG ANSWER", "UNCLEAR CRASH")
VERDICTS = ("held", "refused", *WRONG)
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
"""Between a real mask on a layer's rows and on its products."""


@dataclass
class Verdict:
    """What became of one network under one method.

    Args:
        verdict: one of ``VERDICTS``.
        why: in words, where it did not hold.
        units: how many units the method may mask; of one that masks none, how many weights or growing layers.
        words: what the network is made of.
    """

    verdict: str
    why: str
    units: int
    words: str


def learn(method: Method, net: Drawn, task: str) -> None:
    """A user's own loop: AdamW with weight decay, on inputs that are not all like the example."""
    draw = torch.Generator().manual_seed(TASKS.index(task))
    torch.manual_seed(TASKS.index(task))
    for phase in method.phases:
        method.begin(task, phase)
        named = dict(method.named_parameters())
        scores = [p for name, p in named.items() if name.endswith("scores")]
        others = [p for name, p in named.items() if not name.endswith("scores")]
        groups = [{"params": others, "lr": 0.02, "weight_decay": 0.1}, {"params": scores, "lr": 0.3}]
        optimizer = torch.optim.AdamW(groups)
        method.model.train()
        for step in range(STEPS):
            method.on_step(step / STEPS)
            x = net.batch(draw, 8, VARIATIONS[step % 3])
            optimizer.zero_grad()
            logits = logits_of(call(method.model, x))
            loss = F.cross_entropy(logits, torch.randint(OUTPUTS, (len(logits),), generator=draw))
            (loss + method.penalty()).backward()
            optimizer.step()
    method.end(task)


@torch.no_grad()
def answers(model: nn.Module, net: Drawn) -> list[Tensor]:
    """Logits on fixed batches: like the example, other values, other sizes, one sample, large; two of each."""
    draw = torch.Generator().manual_seed(99)
    return [logits_of(call(model, net.batch(draw, 4, kind))).clone() for kind in VARIATIONS for _ in range(2)]


def apart(before: list[Tensor], after: list[Tensor], alike: bool = False) -> str:
    """Where two rounds of answers differ and by how much; nothing if they do not."""
    found = []
    for place, (a, b) in enumerate(zip(before, after, strict=True)):
        rounded = alike and torch.allclose(a, b, equal_nan=True, **ROUNDING)
        if not rounded and not ((a == b) | (a.isnan() & b.isnan())).all():
            found.append(f"{float((a - b).abs().max()):.1e} ({VARIATIONS[place // 2]})")
    return ", ".join(dict.fromkeys(found))


def clear(error: BaseException) -> bool:
    """Whether an error is a sentence of ours, raised by us: what is expected, what was found."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = "polymask" in Path(frame.filename).parts and linecache.getline(frame.filename, frame.lineno or 0)
    return bool(ours) and ours.strip().startswith("raise") and str(error).startswith("expected ")


def broken(error: Exception, where: str) -> tuple[str, str]:
    """The verdict on an error."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if clear(error):
        return "refused", text
    return "UNCLEAR CRASH", f"{text} [{Path(frame.filename).name}:{frame.lineno}]"


def judge(net: Drawn, name: str) -> Verdict:
    """Learn three tasks; after each, ask all that are finished, baked and activated."""
    try:
        method = METHODS[name](net.build(), net.example)
    except Exception as error:  # noqa: BLE001 (whatever is raised is what is looked for)
        return Verdict(*broken(error, "at the start"), 0, net.words)
    units, kept, verdict = reach(method), {}, ("held", "")
    for task in TASKS:
        try:
            learn(method, net, task)
        except Exception as error:  # noqa: BLE001
            verdict = broken(error, f"task {task}")
        try:
            wrong = compared(method, net, kept)
        except Exception as error:  # noqa: BLE001
            wrong = broken(error, f"answering after task {task}")
        if wrong or verdict[0] != "held":
            return Verdict(*(wrong or verdict), units, net.words)
    return Verdict(*verdict, units, net.words)


def compared(method: Method, net: Drawn, kept: dict[str, list[Tensor]]) -> tuple[str, str] | None:
    """What is wrong with the answers of finished tasks, if anything is; those of new ones are noted in ``kept``."""
    real = any(packed.codec == "real" for record in method.records.values() for packed in record.masks.values())
    for task in method.records:
        # Where a parameter requires a gradient, torch takes another kernel for some products, with or without no_grad.
        baked = answers(method.plain(task).requires_grad_(False), net)
        if drift := apart(kept.setdefault(task, baked), baked):
            return "LEAK", f"{task} after {list(method.records)[-1]}: {drift}"
        if method.task is None:
            method.activate(task)
            if off := apart(baked, answers(method.model.eval(), net), real):
                return "WRONG ANSWER", f"{task}: plain is not activated: {off}"
    return None


def reach(method: Method) -> int:
    """How much of a network a method may mask."""
    if method.sites.wiring.sizes:
        return sum(method.sites.wiring.sizes.values())
    if isinstance(method, TFM):
        return sum(len(group) for group in method.axes.groups)
    return sum(method.sites.tensor(name).numel() for name in method.sites.weights) if method.name == "packnet" else 0


Verdicts = dict[str, dict[str, Verdict]]
"""Seed, as a word -> method -> verdict."""


def load(path: str | None) -> Verdicts:
    """The verdicts in a file, if it is there."""
    if path is None or not Path(path).exists():
        return {}
    found = json.loads(Path(path).read_text())["networks"]
    return {seed: {name: Verdict(**each) for name, each in row.items()} for seed, row in found.items()}


def save(path: str | None, verdicts: Verdicts) -> None:
    """All verdicts as JSON."""
    if path is not None:
        rows = {seed: {name: asdict(each) for name, each in row.items()} for seed, row in verdicts.items()}
        Path(path).write_text(json.dumps({"machine": machine(), "networks": rows}, indent=1, ensure_ascii=False))


def offenders(verdicts: Verdicts) -> list[str]:
    """A line for each pair that did not hold, the refused ones first."""
    return [
        f"{each.verdict}: seed {seed}, {name}: {each.why}\n    {each.words}"
        for verdict in VERDICTS[1:]
        for seed, row in verdicts.items()
        for name, each in row.items()
        if each.verdict == verdict
    ]


def table(verdicts: Verdicts, methods: Sequence[str]) -> list[list[str]]:
    """A row a method: how often each verdict fell, and units in all."""
    rows = [["method", *VERDICTS, "units or weights"]]
    for name in methods:
        found = [row[name] for row in verdicts.values() if name in row]
        count = Counter(each.verdict for each in found)
        rows.append([name, *(str(count[each]) for each in VERDICTS), f"{sum(each.units for each in found):,}"])
    return rows


def fewer(before: Verdicts, now: Verdicts) -> list[str]:
    """The pairs with fewer units than before, and those that are refused now; what they then were is said."""
    lost = []
    for seed, row in now.items():
        for name, each in row.items():
            was = before.get(seed, {}).get(name, each)
            if each.units < was.units or (each.verdict == "refused" and was.verdict == "held"):
                change = f"{was.units} units and {was.verdict}, now {each.units} and {each.verdict}"
                lost.append(f"seed {seed}, {name}: {change}: {each.why[:200]}\n    {each.words}")
    return lost


def judge_all(args: Namespace) -> Verdicts:
    """Every network under every method; what is in ``--out`` already is not asked again."""
    verdicts = load(args.out)
    first, last = (0, 20) if args.quick else args.seeds
    for seed in range(first, last):
        net = drawn(seed)
        answers(net.build().eval(), net)
        row = verdicts.setdefault(str(seed), {})
        for name in args.methods:
            if name not in row:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    row[name] = judge(net, name)
        save(args.out, verdicts)
    return verdicts


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 200), help="the networks from A up to B, without B")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", help="verdicts as JSON; those there already are kept, so that a run goes on")
    parser.add_argument("--before", help="an earlier --out: lists where there are fewer units than then")
    parser.add_argument("--cost", action="store_true", help="how long begin, end and commit take, instead")
    args = parser.parse_args()
    print(machine())
    with threads(1):
        if args.cost:
            cost(args.quick, args.methods)
            return
        begun = time.process_time()
        verdicts = judge_all(args)
    print("\n".join(offenders(verdicts)))
    show(f"{len(verdicts)} networks, {time.process_time() - begun:.0f} CPU seconds", table(verdicts, args.methods))
    if args.before:
        lost = fewer(load(args.before), verdicts)
        print("\n".join([f"\n  {len(lost)} with fewer units than before, or refused now where they held", *lost]))
    if any(each.verdict in WRONG for row in verdicts.values() for each in row.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
