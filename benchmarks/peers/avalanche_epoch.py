"""Avalanche's own loop (strategy ``Naive``) over one task of permuted MNIST; run inside its own environment."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _worker import Figures, serve, timed
from avalanche.benchmarks import PermutedMNIST
from avalanche.benchmarks.scenarios import CLScenario, benchmark_from_datasets, benchmark_with_validation_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import nn
from torch.utils.data import TensorDataset


class Labelled(TensorDataset):
    """Tensors with the attribute by which Avalanche finds labels."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        super().__init__(x, y)
        self.targets = y.tolist()


def benchmark(folder: Path, kind: str) -> CLScenario:
    """A stream of one task with a validation stream."""
    if kind == "own":
        whole = PermutedMNIST(1, dataset_root=folder, seed=0)
        return benchmark_with_validation_stream(whole, validation_size=0.1, shuffle=True, seed=0)
    data = torch.load(folder / "data.pt")
    parts = {"train": ("x", "y"), "valid": ("x_val", "y_val")}
    made = {part: [as_classification_dataset(Labelled(data[x], data[y]))] for part, (x, y) in parts.items()}
    return benchmark_from_datasets(**made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds data.pt and MNIST/raw")
    parser.add_argument("--data", choices=["own", "memory"], default="memory")
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    scenario = benchmark(args.folder, args.data)
    train, valid = scenario.streams["train"][0], scenario.streams["valid"][0]

    def epoch(threads: str) -> Figures:
        torch.set_num_threads(int(threads))
        layers = [nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)]
        model = nn.Sequential(*layers)
        strategy = Naive(
            model=model,
            optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=args.batch,
            eval_mb_size=512,
            train_epochs=1,
            evaluator=EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
            plugins=[PeriodicEval(eval_every=1, do_initial=False)],
        )
        found = timed(lambda: strategy.train(train, eval_streams=[[valid]]))
        scores = [value for key, value in strategy.evaluator.get_last_metrics().items() if key.startswith("Top1")]
        return {**found, "rows": len(train.dataset), "accuracy": scores[-1]}

    serve(epoch)


if __name__ == "__main__":
    main()
