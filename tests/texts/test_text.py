"""Texts as a task of Python: tokens, batches, what is refused, and that padding changes nothing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.texts.toys import bert, reviews, save_bert
from torch.utils.data import Dataset

from polymask.learning.learn import learn
from polymask.learning.training import Training
from polymask.loaded import load
from polymask.methods import METHODS
from polymask.parts.seeds import generator
from polymask.streams import Task, prepare, split
from polymask.streams.texts import text as text_file
from polymask.streams.texts.batches import by_length
from polymask.streams.texts.text import MASK, Text

SHORT = Training(epochs=1, batch_size=16, quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("words") / "bert")


@pytest.fixture
def words(folder: Path) -> Text:
    return Text(str(folder))


def task_of(noun: str, words: Text, **other: Any) -> Task:
    return Task(noun, reviews(noun), inputs=words, **other)


class OneByOne(Dataset[Any]):
    """A data set that gives texts."""

    def __init__(self, noun: str) -> None:
        self.texts, labels = reviews(noun)
        self.y = [label == "up" for label in labels]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, place: int) -> tuple[str, int]:
        return self.texts[place], int(self.y[place])


def test_texts_become_tokens_that_are_padded_as_far_as_the_longest_of_a_batch(words: Text) -> None:
    x = words(["the phone is good", "a book"])
    assert x["input_ids"].tolist() == [[2, 10, 16, 12, 4, 3], [2, 11, 17, 3, 0, 0]]
    assert x[MASK].tolist() == [[1] * 6, [1] * 4 + [0] * 2]
    assert words([("the phone", "is good")])["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    feeds = prepare(task_of("phone", words), seed=0)
    widths = {int(batch["input_ids"].shape[1]) for batch, _ in feeds.train.epoch(8, ("key",))}  # type: ignore[call-overload]
    assert len(widths) > 1, "batches are as long as their longest text"
    for batch, _ in feeds.train.epoch(8, ("key",)):
        assert isinstance(batch, dict)
        assert batch[MASK][:, -1].any()
        assert batch["input_ids"].dtype == torch.int64


def test_an_epoch_has_every_text_once_in_an_order_that_is_its_keys_with_little_padding(words: Text) -> None:
    texts, labels = reviews("phone", 2000)
    feeds = prepare(Task("phone", (texts, labels), inputs=words), seed=0)

    def epoch(key: int) -> list[list[int]]:
        return [row for batch, _ in feeds.train.epoch(16, (key,)) for row in batch["input_ids"].tolist()]  # type: ignore[call-overload]

    one, again, other = epoch(0), epoch(0), epoch(1)
    plain = lambda rows: sorted(str([t for t in row if t]) for row in rows)  # noqa: E731
    assert one == again
    assert one != other
    assert plain(one) == plain(other)
    assert len(one) == feeds.train.size
    padded = sum(row.count(0) for row in one) / sum(map(len, one))
    lengths = torch.tensor([len([t for t in row if t]) for row in one])
    at_random = 1 - lengths.float().mean() / lengths.max()
    assert padded < 0.1 * float(at_random)


@pytest.mark.parametrize(("count", "size"), [(1, 4), (7, 4), (400, 4), (401, 1)])
def test_texts_of_a_length_come_together_and_none_is_lost(count: int, size: int) -> None:
    lengths = torch.randint(1, 50, (count,), generator=generator("lengths"))
    order = by_length(torch.randperm(count, generator=generator("order")), lengths, size, generator("batches"))
    assert order.sort().values.tolist() == list(range(count))


def test_words_as_labels_pairs_and_data_sets_of_texts_are_learned(words: Text) -> None:
    texts, labels = reviews("book")
    pairs = [("book", text) for text in texts]
    run = learn(
        bert(),
        [
            task_of("phone", words),
            Task("pairs", (pairs, labels), inputs=words),
            Task("own", OneByOne("film"), inputs=words),
        ],
        "piggyback",
        training=SHORT,
    )
    assert run.tasks == ["phone", "pairs", "own"]
    assert run.report["max_logit_drift"] == 0
    assert run.method.records["pairs"].meta.inputs["columns"] == ["first", "second"]
    assert run.logits("phone", ["the phone is good"]).shape == (1, 2)
    assert run.predict("pairs", [("book", "the book is good")]).shape == (1,)


def test_a_text_alone_and_beside_a_long_one_has_the_same_answer(words: Text) -> None:
    """Nothing that a method adds reads padding."""
    short, long = "the phone is good", "a book was very very very very very very very very awful"
    for method in METHODS:
        training = Training(epochs=1, batch_size=16, quiet=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = learn(bert(), [task_of("phone", words), task_of("book", words)], method, training=training)
        for task in run.tasks:
            alone, beside = run.logits(task, [short])[0], run.logits(task, [short, long])[0]
            torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-5, msg=f"{method}, {task}")


def test_a_test_part_of_another_length_is_no_error(words: Text) -> None:
    longer = (
        [f"{text} and very very very very very very very good" for text in reviews("phone")[0]],
        reviews("phone")[1],
    )
    assert prepare(task_of("phone", words, test=longer), seed=0).test is not None
    ids = lambda width: {"ids": torch.ones(4, width, dtype=torch.int64)}  # noqa: E731
    y = torch.tensor([0, 1, 0, 1])
    assert prepare(Task("tokens", (ids(5), y), test=(ids(9), y)), seed=0).test is not None
    with pytest.raises(ValueError, match="must be alike"):
        prepare(Task("numbers", (torch.ones(4, 5), y), test=(torch.ones(4, 9), y)), seed=0)


def test_classes_of_texts_are_split_into_tasks(words: Text) -> None:
    texts, _ = reviews("phone", 40)
    labels = [str(place % 4) for place in range(40)]
    stream = split(Task("four", (texts, labels), inputs=words), 2)
    assert [task.labels for task in stream] == [["0", "1"], ["2", "3"]]
    assert prepare(stream[1], seed=0).train.size == 18


def test_what_is_cut_is_counted_and_said(words: Text) -> None:
    texts, labels = reviews("phone")
    long = ["good " * 100, *texts]
    with pytest.warns(UserWarning, match=r"1 of 61 texts of task 'phone' are longer than 64 tokens and are cut there"):
        prepare(Task("phone", (long, ["up", *labels]), inputs=words), seed=0)
    assert Text(words.tokenizer, 5).encode(["a phone is", "a phone", "a phone is good"])[1] == 1
    assert Text(words.tokenizer, 5).encode([("a phone", "a"), ("a", "a")])[1] == 1


def test_many_texts_are_tokenised_once_and_kept(words: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMASK_CACHE", str(tmp_path))
    texts, _ = reviews("phone", 1200)
    first = words.encode(texts, keep=True)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1

    def fail(*_: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(text_file, "_tokens", fail)
    again = words.encode(texts, keep=True)
    assert all(torch.equal(first[0][name], again[0][name]) for name in first[0])
    assert list(first[0]) == list(again[0])
    with pytest.raises(AssertionError, match="tokenised again"):
        words.encode([*texts[1:], "another"], keep=True)
    with pytest.raises(AssertionError, match="tokenised again"):
        Text(words.tokenizer, 7).encode(texts, keep=True)


def test_another_tokenizer_in_its_place_is_refused(tmp_path: Path) -> None:
    place = save_bert(tmp_path / "bert")
    run = learn(bert(), [task_of("phone", Text(str(place)))], "piggyback", out=tmp_path / "out", training=SHORT)
    held = load(tmp_path / "out", bert())
    expected = held.logits("phone", "the phone is good")
    torch.testing.assert_close(run.logits("phone", ["the phone is good"]), expected)
    save_bert(place, words=list(reversed(["good", "bad", "phone", "the", "is"])))
    text_file._opened.cache_clear()
    with pytest.raises(ValueError, match=r"expected the tokenizer .* that the task was learned with .* another one"):
        held.logits("phone", "the phone is good")
    save_bert(place)
    text_file._opened.cache_clear()
    assert torch.equal(held.logits("phone", "the phone is good"), expected)


def test_texts_that_nothing_can_be_made_of_are_refused_in_a_sentence(words: Text, tmp_path: Path) -> None:
    texts, labels = reviews("phone")
    with pytest.raises(ValueError, match=r"inputs of train of task 'phone' are texts: .*inputs=Text\(tokenizer\)"):
        prepare(Task("phone", (texts, labels)), seed=0)
    with pytest.raises(ValueError, match=r"inputs of train of task 'phone' are texts, such as .*inputs=Text"):
        prepare(Task("phone", OneByOne("phone")), seed=0)
    with pytest.raises(ValueError, match=r"expected a text at place 0, found '\\ud800'"):
        words.encode(["\ud800"])
    pairs = [(text, text) for text in texts]
    with pytest.raises(
        ValueError, match="texts or pairs in all parts of task 'phone', found texts in train and pairs in"
    ):
        prepare(Task("phone", (texts, labels), (pairs, labels), inputs=words), seed=0)
    for odd in (None, 1):
        with pytest.raises(ValueError, match=f"labels of one kind for task 'phone', words or numbers, found {odd}"):
            prepare(Task("phone", (texts, [*labels[1:], odd]), inputs=words), seed=0)
    with pytest.raises(ValueError, match=r"expected a pair of texts at place 1, found \('a',\)"):
        words.encode([("a", "b"), ("a",)])
    with pytest.raises(ValueError, match="60 texts but 59 labels"):
        prepare(Task("phone", (texts, labels[1:]), inputs=words), seed=0)
    with pytest.raises(ValueError, match="expected a text or more, found none"):
        words.encode([])
    with pytest.raises(ValueError, match=r"expected texts for task 'phone'.* found a folder of images"):
        prepare(Task("phone", tmp_path, inputs=words), seed=0)
    with pytest.raises(ValueError, match=r"at most 64 tokens.* found 65"):
        Text(words.tokenizer, 65).encode(["good"])
    with pytest.raises(ValueError, match="a length of one token or more, found 0"):
        Text(words.tokenizer, 0)
    with pytest.raises(FileNotFoundError, match=f"no {words.tokenizer[:-1]}: did you mean {words.tokenizer}"):
        Text(words.tokenizer[:-1]).encode(["good"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected a folder with a tokenizer, or the name of one on the hub"):
        Text(str(tmp_path / "empty")).encode(["good"])


def test_what_annotations_forbid_is_refused_in_a_sentence_too(words: Text, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("untyped"):
        pytest.skip("annotations are checked, and refuse it first")
    with pytest.raises(ValueError, match="expected a text at place 1, found None"):
        prepare(Task("phone", (["good", None], ["up", "down"]), inputs=words), seed=0)
    with pytest.raises(ValueError, match="expected a text at place 0, found nan"):
        prepare(Task("phone", ([float("nan"), "bad"], ["up", "down"]), inputs=words), seed=0)


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    place = save_bert(tmp_path / "bert")
    said = (place / "tokenizer_config.json").read_text()
    (place / "tokenizer_config.json").write_text(said.replace('"pad_token": "[PAD]"', '"pad_token": null'))
    with pytest.raises(ValueError, match="has no padding token: give it one"):
        Text(str(place)).encode(["good"])
