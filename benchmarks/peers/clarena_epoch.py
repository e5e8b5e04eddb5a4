"""CLArena's own loop (``Finetuning`` under Lightning) over one task of permuted MNIST; run in its own environment."""

from __future__ import annotations

import argparse
import logging
import tempfile
from functools import partial
from pathlib import Path

import torch
from _worker import Figures, serve, timed
from clarena.backbones import CLMLP
from clarena.cl_algorithms import Finetuning
from clarena.cl_datasets import CLDataset, PermutedMNIST
from clarena.heads import HeadsTIL
from clarena.metrics import CLAccuracy
from lightning import Trainer
from torch.utils.data import Dataset, TensorDataset

for _name in ("lightning", "lightning.pytorch", "clarena"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class InMemory(PermutedMNIST):
    """The same data module, whose data sets are tensors that are ready to be read."""

    tensors: dict[str, torch.Tensor]

    def prepare_data(self) -> None:
        """Nothing to download."""

    def train_and_val_dataset(self) -> tuple[Dataset, Dataset]:
        held = self.tensors
        return TensorDataset(held["x"], held["y"]), TensorDataset(held["x_val"], held["y_val"])


def data_module(folder: Path, kind: str, batch: int) -> CLDataset:
    how = {"root": str(folder), "num_tasks": 1, "validation_percentage": 0.1, "batch_size": batch}
    if kind == "own":
        return PermutedMNIST(**how)
    InMemory.tensors = torch.load(folder / "data.pt")
    return InMemory(**how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds data.pt and MNIST/raw")
    parser.add_argument("--data", choices=["own", "memory"], default="memory")
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()

    def epoch(threads: str) -> Figures:
        torch.set_num_threads(int(threads))
        data = data_module(args.folder, args.data, args.batch)
        data.set_cl_paradigm("TIL")
        data.setup_task_id(1)
        model = Finetuning(CLMLP(784, [100], 100), HeadsTIL(100))
        model.lr_scheduler_t = None
        model.setup_task_id(1, 10, partial(torch.optim.Adam, lr=1e-3), None)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        with tempfile.TemporaryDirectory() as scratch:
            callback = CLAccuracy(scratch)
            trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, callbacks=[callback], **quiet)
            found = timed(lambda: trainer.fit(model, datamodule=data))
        accuracy = float(trainer.callback_metrics["task_1/learning_curve/val/acc"])
        return {**found, "rows": len(data.dataset_train_t), "accuracy": accuracy}

    serve(epoch)


if __name__ == "__main__":
    main()
