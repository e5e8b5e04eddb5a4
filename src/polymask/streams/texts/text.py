"""What is done to a text before the network sees it: one description, used in training and in serving."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymask.near import nearest
from polymask.streams.cache import keyed_file, read_cached, write_cached

RULE = "tokens of a transformers tokenizer, padded on the right"
"""How texts become numbers; written into every record, so that a reader can refuse another."""

MASK = "attention_mask"

DEFAULT = 128
"""Tokens of a text where nobody says how many: as long as the texts that CTR was published for."""

MANY = 1000
"""Texts from which on their tokens are kept on disk."""

SAMPLES = (
    "It lasts, and LASTS: 3.14 stars!",
    "na\u00efve caf\u00e9 \u2014 \u4f60\u597d \u0645\u0631\u062d\u0628\u0627 \U0001f642",
    "  two  spaces\tand a tab\n",
    ("battery", "The battery lasts."),
)
"""Texts that tokenizers of the same words may take apart in other ways."""

Words = str | Sequence[str]
"""A text, or the two of a pair, such as a term and the sentence that it stands in."""


@dataclass(frozen=True)
class Text:
    """Tokenizer and length of a task's texts.

    A batch of texts, or of pairs of texts, becomes what the tokenizer calls its model's inputs, such as ``input_ids``
    and ``attention_mask`` (N, L), L the longest of the batch: a network is called with them by name.

    Args:
        tokenizer: a folder or a name of transformers.
        length: most tokens of a text, or of a pair together; what is longer is cut at its end. None: 128, or what the
            network reads where that is less.
        columns: of the table that texts came from, two of pairs; a table that is asked about has them too.
        digest: of the tokenizer when a task was learned; another one of this name is refused. None: whatever is there.

    Raises:
        ValueError: the length is no positive number.

    >>> Text("my-tokenizer", 64).to_json()["length"]
    64
    """

    tokenizer: str
    length: int | None = None
    columns: tuple[str, ...] = ()
    digest: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise ValueError(f"expected a length of one token or more, found {self.length}")

    @property
    def augments(self) -> bool:
        """Whether training sees something drawn at random: never."""
        return False

    def encode(self, texts: Sequence[Any], keep: bool = False) -> tuple[dict[str, Tensor], int]:
        """The tokens of some texts (N, L), in small integers, and how many texts had to be cut.

        Args:
            texts: each a text, or each a pair.
            keep: whether those of many are kept on disk.

        Raises:
            ValueError: an entry is no text, or the tokenizer is another one than that of ``digest``.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        pairs = check_texts(listed)
        if self.digest is not None and pairs != (len(self.columns) == 2):
            learned, given = ("single texts", "a pair") if pairs else ("pairs of texts", "a text")
            raise ValueError(f"expected {learned}, as the task has learned, found {given}: {listed[0]!r:.80}")
        tokenizer, digest = tokenizer_of(self.tokenizer)
        if self.digest not in (None, digest):
            raise ValueError(
                f"expected the tokenizer {self.tokenizer} that the task was learned with ({self.digest}), found "
                f"another one there ({digest}): put the first one back, its answers would be of other words"
            )
        length = self.limit(tokenizer)
        place = keyed_file("texts", digest, length, _hash(listed)) if keep and len(listed) >= MANY else None
        if (found := read_cached(place)) is None:
            found = _tokens(tokenizer, listed, pairs, length)
            write_cached(place, *found)
        tensors, facts = found
        return {name: tensors[name] for name in tokenizer.model_input_names if name in tensors}, int(facts["cut"])

    def settled(self, pairs: bool) -> Text:
        """The same with the length and the digest of the tokenizer as it is now."""
        tokenizer, digest = tokenizer_of(self.tokenizer)
        columns = self.columns or (("first", "second") if pairs else ())
        return Text(str(local(self.tokenizer)), self.limit(tokenizer), columns, digest)

    def alike(self, other: Text | None) -> bool:
        """Whether both make the same tokens of a text."""
        mine = (self.tokenizer, self.length, self.digest, len(self.columns) == 2)
        return other is not None and mine == (other.tokenizer, other.length, other.digest, len(other.columns) == 2)

    def __call__(self, x: Any) -> Any:
        """What the network reads of texts, or of their tokens."""
        return trim(self.encode(x)[0] if holds_texts(x) else x)

    def to_json(self) -> dict[str, Any]:
        """Numbers and strings only, the rule included."""
        return asdict(self) | {"columns": list(self.columns), "rule": RULE}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Text:
        """What ``to_json`` wrote."""
        values: dict[str, Any] = {
            key: tuple(value) if key == "columns" else value for key, value in record.items() if key != "rule"
        }
        return cls(**values)

    def limit(self, tokenizer: Any) -> int:
        """The most tokens of a text.

        Raises:
            ValueError: the network reads fewer.
        """
        if self.length is None:
            return min(DEFAULT, int(tokenizer.model_max_length))
        if self.length > tokenizer.model_max_length:
            raise ValueError(
                f"expected a length of at most {tokenizer.model_max_length} tokens, which is all that the network of "
                f"{self.tokenizer} reads, found {self.length}"
            )
        return self.length


def holds_texts(x: Any) -> bool:
    """Whether something is a text, texts or pairs of them.

    >>> holds_texts("a text"), holds_texts([("term", "a text")]), holds_texts(torch.zeros(2))
    (True, True, False)
    """
    if isinstance(x, Tensor | Mapping) or not hasattr(x, "__len__"):
        return isinstance(x, str)
    first = x if isinstance(x, str) else next(iter(x), None)
    return isinstance(first, str) or (
        isinstance(first, list | tuple) and bool(first) and all(isinstance(one, str) for one in first)
    )


def check_texts(texts: Sequence[Any]) -> bool:
    """Whether texts are pairs.

    Raises:
        ValueError: there is none, or one is neither a text nor a pair as the others are.

    >>> check_texts(["a text", None])
    Traceback (most recent call last):
    ValueError: expected a text at place 1, found None: drop it, or give an empty text
    """
    if not texts:
        raise ValueError("expected a text or more, found none")
    pairs = isinstance(texts[0], list | tuple)
    for place, text in enumerate(texts):
        parts = text if pairs and isinstance(text, list | tuple) else (text,)
        if len(parts) != 1 + pairs or not all(isinstance(one, str) and is_unicode(one) for one in parts):
            found = f"{text!r}"[:80]
            raise ValueError(
                f"expected a {'pair of texts' if pairs else 'text'} at place {place}, found {found}: drop it, or give "
                f"an empty text"
            )
    return pairs


def is_unicode(text: str) -> bool:
    r"""Whether a text can be written down: half a character, as bytes of another encoding leave it, cannot.

    >>> is_unicode("caf\u00e9"), is_unicode("caf\udce9")
    (True, False)
    """
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def trim(x: Any) -> Any:
    """Tokens without the columns that are padding in every row, as a network takes them.

    >>> trim({"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])})["input_ids"]
    tensor([[5, 6]])
    """
    if not isinstance(x, Mapping) or MASK not in x:
        return x
    longest = max(1, int(x[MASK].sum(1).max()))
    return {name: tensor[:, :longest].long() for name, tensor in x.items()}


def lengths(x: Any) -> Tensor:
    """How many tokens each text has (N,)."""
    found: Tensor = x[MASK].sum(1)
    return found


def tokenizer_of(name: str) -> tuple[Any, str]:
    """A tokenizer by folder or name, and a digest of all that it says; opened once.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no such tokenizer, or it cannot pad.
        ModuleNotFoundError: transformers is not installed.
    """
    place = Path(name).expanduser()
    if name.startswith((".", "/", "~")) and not place.is_dir():
        there = [str(path.parent) for path in sorted(place.parent.glob("*/tokenizer*.json"))[:12]]
        raise FileNotFoundError(f"expected a folder with a tokenizer, found no {place}{nearest(str(place), there)}")
    return _opened(str(local(name)))


@cache
def _opened(name: str) -> tuple[Any, str]:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("expected transformers for texts: pip install 'polymask[text]'") from error
    try:
        found = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected a folder with a tokenizer, or the name of one on the hub, found {name!r}: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error
    if found.pad_token_id is None:
        raise ValueError(
            f"expected a tokenizer that can pad, found that {name!r} has no padding token: give it one, "
            "tokenizer.pad_token = tokenizer.eos_token, and save it to a folder"
        )
    found.padding_side = "right"
    return found, digest_of(found)


def local(name: str) -> Path | str:
    """A folder in full, so that it is found from elsewhere too; a name as it is."""
    path = Path(name).expanduser()
    return path.resolve() if path.is_dir() else name


def digest_of(tokenizer: Any) -> str:
    """A short hash of what a tokenizer makes of texts: its words, and the tokens of a few; no matter which version."""
    words = sorted((str(word), int(number)) for word, number in tokenizer.get_vocab().items())
    found = [tokenizer(*(one if isinstance(one, tuple) else (one,)), verbose=False)["input_ids"] for one in SAMPLES]
    said = json.dumps([words, found, list(tokenizer.model_input_names)])
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _tokens(tokenizer: Any, texts: Sequence[Any], pairs: bool, length: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    first, second = zip(*texts, strict=True) if pairs else (texts, None)
    others = None if second is None else list(second)
    found = tokenizer(list(first), others, truncation=True, max_length=length, padding="longest", return_tensors="pt")
    tensors = {name: small(found[name], name) for name in tokenizer.model_input_names if name in found}
    if MASK not in tensors:
        raise ValueError(f"expected a tokenizer that says what is padding ({MASK}), found {list(tensors)}")
    full = (lengths(tensors) == length).nonzero()[:, 0].tolist()
    whole = [tokenizer(first[row], None if others is None else others[row], verbose=False)["input_ids"] for row in full]
    return tensors, {"cut": sum(len(ids) > length for ids in whole)}


def small(values: Tensor, name: str) -> Tensor:
    """Marks of a byte, and the numbers of words in four."""
    return values.to(torch.uint8 if name in (MASK, "token_type_ids") else torch.int32)


def _hash(texts: Sequence[Any]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for text in texts:
        found.update(json.dumps(text).encode())
        found.update(b"\n")
    return found.hexdigest()
