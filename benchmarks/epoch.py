"""What our loop costs in an epoch: permuted MNIST, MLP 784-100-100-10, batch 128, against a bare PyTorch loop."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from _measure import THREADS, Times, compare, machine, options, show, threads, with_data
from _mnist import MNIST, origin, permuted_mnist
from _peers import Peer, write_mnist
from polymask import METHODS, Objective, Training
from polymask.learning.evaluate import evaluate
from polymask.learning.fabric import make_fabric
from polymask.learning.train.loop import Phase, Progress, train_phase
from polymask.learning.training import make_optimizer, make_schedule
from polymask.nets import build_net
from polymask.streams import Feeds, prepare

BATCH, LR, PLAIN, OURS, TARGET = 128, 1e-3, "bare PyTorch loop", "finetune, our loop", 1.10
PEERS = {
    "Avalanche, tensors in memory": ("avalanche", "avalanche_epoch.py", "memory"),
    "Avalanche, its data class": ("avalanche", "avalanche_epoch.py", "own"),
    "CLArena, tensors in memory": ("clarena", "clarena_epoch.py", "memory"),
    "CLArena, its data class": ("clarena", "clarena_epoch.py", "own"),
}
Run = Callable[[], object]


@dataclass(frozen=True)
class Data:
    """A task as our loop reads it, and the same rows as plain tensors."""

    feeds: Feeds
    x: Tensor
    y: Tensor


def read(data_root: str | None, examples: int | None) -> Data:
    feeds = prepare(permuted_mnist(data_root, 2, examples)[1], seed=0)
    batches = list(feeds.train.ordered(4096))
    return Data(feeds, torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))


def bare(data: Data, epochs: int) -> Run:
    """The shortest loop that does the work: shuffle, select, step; then the same evaluation."""
    model = build_net("mlp", (1, 28, 28), 10, hidden=(100, 100))
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)

    def run() -> None:
        for _ in range(epochs):
            model.train()
            for rows in torch.randperm(len(data.x)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(data.x[rows]), data.y[rows]).backward()
                optimizer.step()
            evaluate(model, data.feeds.val, [Objective().metric], 10, BATCH)

    return run


def ours(name: str, data: Data, epochs: int) -> Run:
    """The training epochs of a method's first phase through our loop, with nothing logged or saved."""
    training = Training(epochs=epochs, batch_size=BATCH, lr=LR, optimizer="adam", device="cpu")
    method = METHODS[name](build_net("mlp", (1, 28, 28), 10, hidden=(100, 100)), data.feeds.example())
    method.begin("task", outputs=10)
    recipe = training.over(method.recipes[method.phases[0]])
    phase = Phase(make_fabric(training), method, data.feeds, recipe, Objective(), (0, "task", method.phases[0]))

    def run() -> None:
        train_phase(
            phase,
            Progress(),
            lambda method: make_optimizer(recipe, method.named_parameters()),
            lambda optimizer, steps: make_schedule(recipe, optimizer, steps),
        )

    return run


def arms(data: Data, epochs: int) -> dict[str, Callable[[], Run]]:
    """Arm -> a function that sets it up afresh and returns what is timed."""
    others = [name for name in METHODS if name != "finetune"]
    return {
        PLAIN: lambda: bare(data, epochs),
        "bare PyTorch loop, again": lambda: bare(data, epochs),
        OURS: lambda: ours("finetune", data, epochs),
        **{name: (lambda name=name: ours(name, data, epochs)) for name in others},
    }


def turns(made: dict[str, Callable[[], Run]], epochs: int, rounds: int) -> Times:
    """Seconds an epoch; an arm is set up outside the clock."""
    times, turn = Times(), Times()
    for place in range(-1, rounds):
        for arm, make in made.items():
            turn.time(arm, make())
            if place >= 0:
                times.add(arm, turn.wall[arm][-1] / epochs, turn.cpu[arm][-1] / epochs)
    return times


@contextlib.contextmanager
def workers(folder: Path, data: Data, data_root: str | None) -> Iterator[dict[str, Peer]]:
    """The peers' loops, each waiting in its own environment with the data read."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        val = list(data.feeds.val.ordered(4096))
        tensors = {"x_val": torch.cat([x for x, _ in val]), "y_val": torch.cat([y for _, y in val])}
        torch.save({"x": data.x, "y": data.y, **tensors}, Path(scratch) / "data.pt")
        write_mnist(Path(scratch), data_root)
        yield {
            name: stack.enter_context(
                contextlib.closing(Peer(folder / env, script, [scratch, "--data", kind, "--batch", str(BATCH)]))
            )
            for name, (env, script, kind) in PEERS.items()
            if (folder / env).is_dir()
        }


def peers(folder: Path, data: Data, data_root: str | None, rounds: int, counts: tuple[int, ...]) -> None:
    with workers(folder, data, data_root) as found:
        for count in counts:
            times = Times()
            with threads(count):
                bare(data, 1)()
                for _ in range(rounds):
                    for arm, make in {PLAIN: lambda: bare(data, 3), OURS: lambda: ours("finetune", data, 3)}.items():
                        turn = Times()
                        turn.time(arm, make())
                        times.add(arm, turn.wall[arm][0] / 3, turn.cpu[arm][0] / 3)
                    for arm, peer in found.items():
                        answer = peer.ask(f"{count}")
                        times.add(arm, answer["wall"], answer["cpu"])
            show(f"an epoch with the peers' loops, {count} thread(s), {rounds} rounds", compare(times, PLAIN))


def whole_command(data_root: str | None, epochs: int) -> None:
    """Everything from the shell's prompt to the prompt: imports, reading, two tasks, evaluation, a bank on disk."""
    program = shutil.which("polymask", path=str(Path(sys.executable).parent)) or shutil.which("polymask")
    if data_root is None or program is None:
        print("\nthe whole command: needs --data-root and an installed polymask")
        return
    rows = [["polymask run --method", "wall s"]]
    for name in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            stream = ["--stream", "permuted", "--data", MNIST, "--data-root", data_root, "--tasks", "2"]
            how = ["--epochs", str(epochs), "--batch-size", str(BATCH), "--model", "mlp", "--out", f"{folder}/run"]
            start = time.perf_counter()
            subprocess.run([program, "run", "--method", name, *stream, *how], check=True, capture_output=True)
            rows.append([name, f"{time.perf_counter() - start:.1f}"])
    show(f"the whole command, 2 tasks, {epochs} epochs a phase", rows)


def main() -> None:
    parser = with_data(options(__doc__))
    parser.add_argument("--peers", type=Path, help="a folder that holds the environments avalanche/ and clarena/")
    args = parser.parse_args()
    epochs, rounds, examples = (1, 2, 4_000) if args.quick else (1, 11, None)
    print(machine())
    data = read(args.data_root, examples)
    print(f"{origin(args.data_root)}: {data.feeds.train.size} rows to train on, {data.feeds.val.size} to evaluate on")
    for count in THREADS:
        with threads(count):
            times = turns(arms(data, epochs), epochs, rounds)
        show(f"an epoch, {count} thread(s), {rounds} rounds", compare(times, PLAIN, {OURS: TARGET}))
    whole_command(args.data_root, epochs)
    if args.peers is not None:
        peers(args.peers, data, args.data_root, 1 if args.quick else 3, THREADS[:1] if args.quick else THREADS)


if __name__ == "__main__":
    main()
