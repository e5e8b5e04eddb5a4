"""Small tokenizers, networks and tables of reviews that are written for a test."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

WORDS = [
    "good",
    "fine",
    "great",
    "bad",
    "awful",
    "poor",
    "the",
    "a",
    "is",
    "was",
    "very",
    "not",
    "phone",
    "book",
    "film",
    "soup",
    "it",
    "lasts",
    "NA",
    "battery",
]
UP, DOWN = ("good", "fine", "great"), ("bad", "awful", "poor")


def save_bert(folder: Path, words: Sequence[str] = WORDS, longest: int = 64) -> Path:
    """A folder with a tokenizer of few words and the configuration of a small BERT, as transformers keeps them."""
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=longest, model_input_names=names, **marks
    )
    tokenizer.save_pretrained(folder)
    config_of(len(vocabulary)).save_pretrained(folder)
    return folder


def config_of(vocabulary: int) -> transformers.BertConfig:
    """A BERT of two layers of 32."""
    return transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def bert(outputs: int = 2) -> nn.Module:
    """The same, drawn from a fixed seed."""
    transformers.set_seed(0)
    config = config_of(4 + len(WORDS))
    config.num_labels = outputs
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def reviews(noun: str, count: int = 60, key: object = 0) -> tuple[list[str], list[str]]:
    """Reviews of a thing, the better ones first, of many lengths, and whether they are up or down."""
    draws = random.Random(f"{noun}-{key}")
    texts = [
        " ".join(
            [draws.choice(["the", "a"]), noun, draws.choice(["is", "was"])]
            + ["very"] * draws.randint(0, 6)
            + [draws.choice(UP if place < count // 2 else DOWN)]
        )
        for place in range(count)
    ]
    return texts, ["up" if place < count // 2 else "down" for place in range(count)]


def write_csv(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str], delimiter: str = ",") -> Path:
    """A table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def write_reviews(path: Path, noun: str, count: int = 60, key: object = 0) -> Path:
    """A csv of reviews with a number, a text and a verdict in each row."""
    rows = [(place, text, label) for place, (text, label) in enumerate(zip(*reviews(noun, count, key), strict=True))]
    return write_csv(path, rows, ["id", "review", "verdict"])
