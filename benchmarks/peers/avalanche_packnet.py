"""Avalanche's PackNet on permuted MNIST with SGD, momentum and weight decay; run inside its own environment."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _worker import Figures, serve, timed
from avalanche.benchmarks.scenarios import benchmark_from_datasets, task_incremental_benchmark, with_classes_timeline
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.models.packnet import PackNetModel
from avalanche.training import PackNet
from avalanche.training.plugins import EvaluationPlugin
from torch import Tensor, nn
from torch.utils.data import Dataset


class Permuted(Dataset):
    """Rows with their pixels in another order; all tasks share one set of rows."""

    def __init__(self, x: Tensor, y: Tensor, order: Tensor) -> None:
        self.x, self.order, self.targets = x, order, y.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i][self.order], self.targets[i]


@torch.no_grad()
def logits(model: nn.Module, x: Tensor, task: int) -> Tensor:
    model.eval()
    return model(x, torch.full((len(x),), task))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds data.pt")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=1, help="before pruning, and again after it")
    args = parser.parse_args()
    data = torch.load(args.folder / "data.pt")
    x, y, x_test, y_test, orders = (data[key] for key in ("x", "y", "x_test", "y_test", "orders"))

    def learn(threads: str) -> Figures:
        torch.set_num_threads(int(threads))
        count = len(orders)
        layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
        model = PackNetModel(nn.Sequential(*layers))
        strategy = PackNet(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4),
            post_prune_epochs=args.epochs,
            prune_proportion=[(count - 1 - t) / (count - t) for t in range(count)],
            train_mb_size=128,
            train_epochs=2 * args.epochs,
            evaluator=EvaluationPlugin(loggers=[]),
        )
        rows = [as_classification_dataset(Permuted(x, y, order)) for order in orders]
        scenario = with_classes_timeline(task_incremental_benchmark(benchmark_from_datasets(train=rows)))
        after: list[Tensor] = []

        def stream() -> None:
            for task, (order, experience) in enumerate(zip(orders, scenario.streams["train"], strict=True)):
                strategy.train(experience)
                after.append(logits(model, x_test[:, order], task))

        found = timed(stream)
        now = [logits(model, x_test[:, order], task) for task, order in enumerate(orders)]
        scores = [(one.argmax(1) == y_test).float().mean().item() for one in now]
        first = (after[0].argmax(1) == y_test).float().mean().item()
        drift = max((a - b).abs().max().item() for a, b in zip(after, now, strict=True))
        return {**found, "first": first, "last": scores[0], "mean": sum(scores) / count, "drift": drift}

    serve(learn)


if __name__ == "__main__":
    main()
