"""A small BERT and a batch for it: what serving many tasks at once is measured on."""

from __future__ import annotations

import torch
import transformers
from torch import nn

from _measure import with_torchvision

LENGTH = 32


def bert(quick: bool = False) -> nn.Module:
    """4 layers of 256, random; in evaluation mode."""
    with_torchvision()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=1000,
        hidden_size=64 if quick else 256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256 if quick else 1024,
        max_position_embeddings=64,
        num_labels=2,
        attn_implementation="eager",
    )
    model: nn.Module = transformers.BertForSequenceClassification(config).eval()
    return model


def tokens(samples: int) -> torch.Tensor:
    """Token ids of so many samples, all of full length."""
    return torch.randint(5, 1000, (samples, LENGTH), generator=torch.Generator().manual_seed(1))


class Rows(nn.Module):
    """A network that flattens its rows, (B, L, C) to (1, B L, C), before the layer that adapters change."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.head = nn.Linear(16, 32), nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(1, -1, x.shape[-1])
        found: torch.Tensor = self.head(self.up(flat).relu().reshape(*x.shape[:2], -1).mean(1))
        return found
