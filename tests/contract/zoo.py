"""The backbones that every method is tried on: small, seeded, one function each."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import tensors_of

OUTPUTS = 5  # the width of every head
DEVICE = torch.device(os.environ.get("POLYMASK_TEST_DEVICE", "cpu"))
"""Where the contract runs; "cuda" repeats on a GPU what the suite asks of a CPU."""


def placed(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """A network and its example on the device of the tests."""
    return model.to(DEVICE), tensors_of(example, lambda x: x.to(DEVICE))


class Encoder(nn.Module):
    """A projection, torch's own transformer encoder (fused in-projection, fast path in eval), pooling, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of sequences ``(b, t, 6)``."""
        return self.head(self.encoder(self.project(x)).mean(1))


class Recurrent(nn.Module):
    """A frozen embedding, an LSTM, a head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8).requires_grad_(False)
        self.lstm = nn.LSTM(8, 12, batch_first=True)
        self.head = nn.Linear(12, OUTPUTS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of a batch of token ids ``(b, t)``."""
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


def mlp_bn() -> tuple[nn.Module, Any]:
    """An MLP with BatchNorm."""
    body = [nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 16), nn.BatchNorm1d(16), nn.ReLU()]
    return nn.Sequential(*body, nn.Linear(16, OUTPUTS)), torch.randn(4, 12)


def convnet() -> tuple[nn.Module, Any]:
    """Two convolutions, one of them strided, and a linear layer on the flattened map."""
    body = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(54, 12), nn.ReLU(), nn.Linear(12, OUTPUTS)), torch.randn(4, 1, 8, 8)


def timm_resnet() -> tuple[nn.Module, Any]:
    """The smallest ResNet of timm."""
    import timm

    return timm.create_model("test_resnet", num_classes=OUTPUTS), torch.randn(2, 3, 32, 32)


def timm_vit() -> tuple[nn.Module, Any]:
    """The smallest vision transformer of timm."""
    import timm

    return timm.create_model("test_vit", num_classes=OUTPUTS, img_size=32), torch.randn(2, 3, 32, 32)


def encoder() -> tuple[nn.Module, Any]:
    """``nn.TransformerEncoder`` between a projection and a head."""
    return Encoder(), torch.randn(4, 5, 6)


def tied_bert() -> tuple[nn.Module, Any]:
    """BERT for masked language modelling, whose head is tied to its embedding; a mapping in, a mapping out."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=13,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=8,
        attn_implementation="eager",
    )
    tokens = torch.arange(12).view(2, 6)
    return transformers.BertForMaskedLM(config), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def minilm(layers: int = 2, width: int = 24, words: int = 13, folder: str | None = None) -> tuple[nn.Module, Any]:
    """MiniLM's network (Wang et al. 2020) as a classifier, narrow and shallow; in full with its own numbers."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * width,
        max_position_embeddings=64,
        num_labels=OUTPUTS,
        attn_implementation="eager",
    )
    if folder is None:
        model = transformers.BertForSequenceClassification(config)
    else:
        kind = transformers.BertForSequenceClassification
        model = kind.from_pretrained(folder, num_labels=OUTPUTS, attn_implementation="eager")
    tokens = torch.arange(12).remainder(words).view(2, 6)
    return model, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def lstm() -> tuple[nn.Module, Any]:
    """An LSTM on a frozen embedding."""
    return Recurrent(), torch.arange(20).remainder(11).view(4, 5)


BUILDERS = (mlp_bn, convnet, timm_resnet, timm_vit, encoder, tied_bert, minilm, lstm)


def _seeded(build: Callable[[], tuple[nn.Module, Any]]) -> Callable[[], tuple[nn.Module, Any]]:
    def make() -> tuple[nn.Module, Any]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return placed(*build())

    return make


BACKBONES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {build.__name__: _seeded(build) for build in BUILDERS}
"""name -> a function that makes ``(model, example)``, the same at every call."""


ENCODERS = ("encoder", "timm_vit", "tied_bert", "minilm")
"""Those that are transformers, the smallest first: what a method that ``needs`` an encoder meets."""


def meets(needs: str, backbone: str) -> bool:
    """Whether a backbone is what a method needs."""
    return needs != "encoder" or backbone in ENCODERS


def network(name: str) -> nn.Module:
    """A backbone alone, for a bank's builder."""
    return BACKBONES[name]()[0]
