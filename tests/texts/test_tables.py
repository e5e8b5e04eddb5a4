"""Tables as tasks: every kind of file and folder, columns by name, and what is said of those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image
from tests.texts.toys import reviews, save_bert, write_csv, write_reviews

from polymask.learning.by_name import run_named, tokenizer_for
from polymask.streams import make_stream, prepare
from polymask.streams.holdout import drawn
from polymask.streams.texts.sets import has_tables, without_headers
from polymask.streams.texts.tables import load_texts
from polymask.streams.texts.text import Text

HOW = {"text": ["review"], "label": "verdict"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("words") / "bert")


@pytest.fixture
def words(folder: Path) -> Text:
    return Text(str(folder))


def write_jsonl(path: Path, noun: str) -> Path:
    lines = [json.dumps({"review": text, "verdict": label}) for text, label in zip(*reviews(noun), strict=True)]
    path.write_text("\n".join(lines))
    return path


def write_parquet(path: Path, noun: str, part: str = "train", count: int = 60, text: str = "text") -> Path:
    """A file as the hub has them, with numbered classes."""
    texts, labels = reviews(noun, count, part)
    features = Features({"term": Value("string"), text: Value("string"), "label": ClassLabel(names=["up", "down"])})
    rows = {"term": [noun] * count, text: texts, "label": [int(label == "down") for label in labels]}
    path.mkdir(parents=True, exist_ok=True)
    file = path / f"{part}-00000-of-00001.parquet"
    Dataset.from_dict(rows, features=features).to_parquet(file)
    return file


def test_every_kind_of_table_says_the_same(words: Text, tmp_path: Path) -> None:
    texts, labels = reviews("phone")
    rows = list(zip(texts, labels, strict=True))
    files = [
        write_csv(tmp_path / "a.csv", rows, ["review", "verdict"]),
        write_csv(tmp_path / "b.tsv", rows, ["review", "verdict"], delimiter="\t"),
        write_jsonl(tmp_path / "c.jsonl", "phone"),
        tmp_path / "d.json",
    ]
    files[-1].write_text(json.dumps([{"review": text, "verdict": label} for text, label in rows]))
    for file in files:
        task = load_texts(file, inputs=words, **HOW)  # type: ignore[arg-type]
        assert task.train == (texts, labels)
        assert task.labels == ["down", "up"]
        assert task.name == file.stem
    parquet = write_parquet(tmp_path / "e", "phone")
    found = load_texts(parquet, text=["text"], inputs=words)
    assert found.labels == ["up", "down"]
    assert found.train == reviews("phone", key="train")


def test_a_text_may_say_na_and_have_line_breaks_and_quotes(words: Text, tmp_path: Path) -> None:
    rows = [("NA", "up"), ('it "lasts",\nvery', "down"), ("", "up"), ("null", "down")]
    task = load_texts(write_csv(tmp_path / "a.csv", rows, ["review", "verdict"]), inputs=words, **HOW)  # type: ignore[arg-type]
    assert task.train == ([text for text, _ in rows], [label for _, label in rows])


def test_files_are_tasks_and_folders_are_their_parts_or_several_tasks(folder: Path, tmp_path: Path) -> None:
    how = {"tokenizer": str(folder), **HOW}
    files = [str(write_reviews(tmp_path / f"{noun}.csv", noun)) for noun in ("phone", "book")]
    assert [task.name for task in make_stream("datasets", files, **how)] == ["phone", "book"]
    assert [task.name for task in make_stream("datasets", [str(tmp_path)], **how)] == ["book", "phone"]
    for noun in ("film", "soup"):
        for part, count in (("train", 40), ("valid", 10), ("test", 20)):
            write_reviews(tmp_path / "sets" / noun / f"{part}.csv", noun, count, part)
    several = make_stream("datasets", [str(tmp_path / "sets")], **how)
    assert [task.name for task in several] == ["film", "soup"]
    feeds = prepare(several[0], seed=0)
    assert feeds.test is not None
    assert (feeds.train.size, feeds.val.size, feeds.test.size) == (40, 10, 20)
    named = make_stream("datasets", ["mine/film"], data_root=_below(tmp_path), **how)
    assert [task.name for task in named] == ["film"]
    hub = tmp_path / "hub" / "owner" / "phones"
    for part in ("train", "validation", "test"):
        write_parquet(hub, "phone", part)
    (found,) = make_stream(
        "datasets", ["owner/phones"], data_root=tmp_path / "hub", tokenizer=str(folder), text=["term", "text"]
    )
    assert found.train[0][0] == ("phone", reviews("phone", key="train")[0][0])  # type: ignore[index]


def _below(root: Path) -> Path:
    (root / "root").mkdir(exist_ok=True)
    (root / "root" / "mine").symlink_to(root / "sets")
    return root / "root"


def test_known_streams_need_one_name(folder: Path, tmp_path: Path) -> None:
    for noun in ("book", "phone"):
        write_parquet(tmp_path / "local" / "asc" / noun, noun, text="sentence")
        write_parquet(tmp_path / "local" / "dsc" / noun, noun)
    how = {"data_root": tmp_path, "tokenizer": str(folder)}
    assert [task.name for task in make_stream("asc", **how)] == ["book", "phone"]  # type: ignore[arg-type]
    assert make_stream("asc", **how)[0].train[0][0][0] == "book"  # type: ignore[arg-type, index]
    assert make_stream("dsc", **how)[0].train[0][0] == reviews("book", key="train")[0][0]  # type: ignore[arg-type, index]


def test_news_come_without_their_headers_unless_they_are_asked_for(folder: Path, tmp_path: Path) -> None:
    names = [f"group.{place:02}" for place in range(20)]
    rows = {
        "text": [f"From: me\nSubject: {name}\n\nthe phone is good" for name in names * 4],
        "label": [*range(20)] * 4,
    }
    place = tmp_path / "local" / "20news-bydate"
    place.mkdir(parents=True)
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    Dataset.from_dict(rows, features=features).to_parquet(place / "train-00000-of-00001.parquet")
    how = {"data_root": tmp_path, "tokenizer": str(folder)}
    stream = make_stream("20news", **how)  # type: ignore[arg-type]
    whole = make_stream("20news", headers=True, **how)  # type: ignore[arg-type]
    assert len(stream) == 10
    assert stream[0].labels == names[:2]
    assert prepare(stream[0], seed=0).train.ordered(8).__next__()[0]["input_ids"].shape[1] == 6  # type: ignore[call-overload]
    assert prepare(whole[0], seed=0).train.ordered(8).__next__()[0]["input_ids"].shape[1] > 6  # type: ignore[call-overload]
    assert without_headers("Only a header: yes") == "Only a header: yes"


def test_fewer_examples_are_a_share_of_each_class_although_rows_are_sorted(folder: Path, tmp_path: Path) -> None:
    path = write_reviews(tmp_path / "phone.csv", "phone", 100)
    how = {"tokenizer": str(folder), **HOW}
    (task,) = make_stream("datasets", [str(path)], examples=20, **how)
    (again,) = make_stream("datasets", [str(path)], examples=20, **how)
    (other,) = make_stream("datasets", [str(path)], examples=20, seed=1, **how)
    assert sorted(task.train[1]) == ["down"] * 10 + ["up"] * 10  # type: ignore[index]
    assert task.train == again.train != other.train
    (all_of_it,) = make_stream("datasets", [str(path)], examples=100, **how)
    assert len(all_of_it.train[0]) == 100  # type: ignore[index]
    digits = make_stream("digits", tasks=5, examples=30)
    assert prepare(digits[0], seed=0).train.size + prepare(digits[0], seed=0).val.size == 30


def test_draws_are_as_many_as_asked_with_one_of_each_class_at_least() -> None:
    import torch

    y = torch.tensor([0] * 97 + [1, 2, 2])
    for count in range(3, 101):
        rows = drawn(y, count, ("key",))
        assert len(rows) == count == len(rows.unique())
        assert len(y[rows].unique()) == 3
    with pytest.raises(ValueError, match="each of 3 classes, found examples=2"):
        drawn(y, 2, ("key",))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"label": "verdict"}, "expected one column of texts in .*other.* name the one, or the two of pairs, --text"),
        ({"text": ["reviw"], "label": "verdict"}, "a column of texts called 'reviw' .*did you mean review"),
        ({"text": ["id"], "label": "verdict"}, "a column of texts called 'id' .*id \\(int64\\)"),
        ({"text": ["review"]}, "expected a column of labels in .*name it, --label COLUMN"),
        ({"text": ["review"], "label": "verdit"}, "labels called 'verdit' .*did you mean verdict"),
        ({"text": ["review", "review"], "label": "verdict"}, "the two of pairs, for --text, found review review"),
        ({"text": ["a", "b", "c"], "label": "verdict"}, "the two of pairs, for --text, found a b c"),
        ({"text": ["review", "verdict"], "label": "verdict"}, "columns of their own, found 'verdict' named for both"),
        ({"text": ["review"], "label": "share"}, "labels called 'share' .*which holds no words, whole numbers"),
    ],
)
def test_columns_that_are_not_there_are_named_with_those_that_are(
    how: dict[str, object], said: str, words: Text, tmp_path: Path
) -> None:
    path = write_csv(
        tmp_path / "a.csv",
        [(1, "good", "x", 0.5, "up"), (2, "bad", "y", 1.5, "down")],
        ["id", "review", "other", "share", "verdict"],
    )
    with pytest.raises(ValueError, match=said):
        load_texts(path, inputs=words, **how)  # type: ignore[arg-type]


def test_tables_that_cannot_be_read_say_which_and_why(words: Text, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "a.jsonl"
    broken.write_text('{"review": "good"\n')
    with pytest.raises(ValueError, match=r"expected a table in .*a.jsonl, found one that cannot be read"):
        load_texts(broken, inputs=words, **HOW)  # type: ignore[arg-type]
    (tmp_path / "b.csv").write_bytes(b"review,verdict\n\xff\xfe bad,up\n")
    with pytest.raises(ValueError, match=r"expected a table in .*b.csv, found one that cannot be read"):
        load_texts(tmp_path / "b.csv", inputs=words, **HOW)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected a table in .*d.csv, found .*: it has columns, and no row"):
        load_texts(write_csv(tmp_path / "d.csv", [], ["review", "verdict"]), inputs=words, **HOW)  # type: ignore[arg-type]
    wide = tmp_path / "wide.csv"
    wide.write_text("review,verdict\n" + "it was bad, now it is good,up\n" * 3)
    with pytest.raises(ValueError, match=r"wide.csv, found .*more fields than its header; .* wants quotes"):
        load_texts(wide, inputs=words, **HOW)  # type: ignore[arg-type]
    unlabelled = write_csv(tmp_path / "c.csv", [("good", "up"), ("bad", "")], ["review", "verdict"])
    with pytest.raises(ValueError, match=r"a label in every row of .*some without one in 'verdict'"):
        load_texts(unlabelled, inputs=words, **HOW)  # type: ignore[arg-type]
    twice = tmp_path / "twice"
    for name in ("val.csv", "dev.csv", "train.csv"):
        write_reviews(twice / name, "phone")
    with pytest.raises(ValueError, match="one file of each part"):
        load_texts(twice, inputs=words, **HOW)  # type: ignore[arg-type]
    parts = tmp_path / "parts"
    write_reviews(parts / "train.csv", "phone")
    write_csv(parts / "test.csv", [("good", "up")], ["text", "verdict"])
    with pytest.raises(ValueError, match=r"in every part of .*found test without \['review'\]"):
        load_texts(parts, inputs=words, **HOW)  # type: ignore[arg-type]
    write_csv(parts / "test.csv", [("good", 1)], ["review", "verdict"])
    with pytest.raises(ValueError, match=r"labels of one kind in all parts of .*found int and str"):
        load_texts(parts, inputs=words, **HOW)  # type: ignore[arg-type]
    how = {"tokenizer": str(folder), **HOW}
    with pytest.raises(FileNotFoundError, match=r"a table or a folder of tables, found no .*none.csv"):
        make_stream("datasets", [str(tmp_path / "none.csv")], **how)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected tables in .*empty"):
        make_stream("datasets", [str(tmp_path / "empty")], **how)


def test_what_is_for_images_is_refused_with_texts(folder: Path, tmp_path: Path) -> None:
    path = str(write_reviews(tmp_path / "phone.csv", "phone"))
    with pytest.raises(ValueError, match="without what is for images, found --size, --flip"):
        make_stream("datasets", [path], tokenizer=str(folder), size=(8, 8), flip=True, **HOW)
    with pytest.raises(ValueError, match=r"a stream of texts .*found 'permuted', which is of images"):
        make_stream("permuted", [path], tokenizer=str(folder), **HOW)
    with pytest.raises(ValueError, match="expected a tokenizer for texts, found none"):
        make_stream("datasets", [path], **HOW)
    with pytest.raises(ValueError, match="expected a network that reads texts, found none: --model"):
        run_named("piggyback", "datasets", data=[path], text=["review"], label="verdict")
    with pytest.raises(ValueError, match="expected data for the stream 'datasets', found none: --data"):
        make_stream("datasets", tokenizer=str(folder), **HOW)
    assert tokenizer_for(str(folder), "datasets", [path], None, None) == str(folder)
    assert tokenizer_for("mlp", "datasets", ["ylecun/mnist"], None, None) is None


def test_a_folder_of_images_stays_one_beside_a_table(tmp_path: Path) -> None:
    for label in ("day", "night"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "photos" / label / "0.png")
    write_reviews(tmp_path / "photos" / "metadata.csv", "phone")
    assert not has_tables(str(tmp_path / "photos"))
    assert has_tables(str(tmp_path / "photos" / "metadata.csv"))
    assert [task.name for task in make_stream("datasets", [str(tmp_path / "photos")])] == ["photos"]


def write_sentiment(path: Path, part: str, names: list[str], labels: list[int | None]) -> None:
    """A part of a data set of the hub, whose classes are numbered in an order of its own."""
    path.mkdir(exist_ok=True)
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=names)})
    rows = {"sentence": [f"{part} {place}" for place in range(len(labels))], "label": labels}
    Dataset.from_dict(rows, features=features).to_parquet(path / f"{part}.parquet")


@pytest.mark.parametrize("secret", [-1, None])
def test_a_test_part_whose_labels_are_kept_secret_is_none(secret: int | None, words: Text, tmp_path: Path) -> None:
    for part, labels in (("train", [0, 1, 0, 1]), ("validation", [1, 0]), ("test", [secret] * 3)):
        write_sentiment(tmp_path / "sst", part, ["bad", "good"], labels)
    task = load_texts(tmp_path / "sst", inputs=words)
    assert (task.val, task.test) == (None, (["validation 0", "validation 1"], ["good", "bad"]))
    write_sentiment(tmp_path / "sst", "test", ["bad", "good"], [1, secret])
    with pytest.raises(ValueError, match=rf"a label in every row of .*, found {secret} in one: drop such rows"):
        load_texts(tmp_path / "sst", inputs=words)


def test_a_label_is_its_name_whatever_number_a_part_gives_it(words: Text, tmp_path: Path) -> None:
    write_sentiment(tmp_path / "sst", "train", ["bad", "good"], [0, 1])
    write_sentiment(tmp_path / "sst", "test", ["good", "bad"], [0, 1])
    task = load_texts(tmp_path / "sst", inputs=words)
    assert (task.train[1], task.test and task.test[1]) == (["bad", "good"], ["good", "bad"])


def test_validation_texts_that_are_training_texts_are_said_and_left_out_of_the_stream_that_has_them(
    folder: Path, tmp_path: Path
) -> None:
    texts, labels = reviews("phone", 40, "train")
    fresh, verdicts = reviews("phone", 30, "val")
    new = [pair for pair in zip(fresh, verdicts, strict=True) if pair[0] not in texts][:4]
    asked = [*zip(texts[:6], labels[:6], strict=True), *new]
    place = tmp_path / "local" / "dsc" / "phone"
    write_csv(place / "train.csv", list(zip(texts, labels, strict=True)), ["text", "label"])
    write_csv(place / "val.csv", asked, ["text", "label"])
    write_csv(place / "test.csv", new, ["text", "label"])
    how = {"tokenizer": str(folder)}
    with pytest.warns(UserWarning, match="6 of 10 texts of val of task 'phone' are training texts too"):
        (kept,) = make_stream("datasets", [str(place)], text=["text"], **how)  # type: ignore[arg-type]
    assert kept.train == (texts, labels)
    (task,) = make_stream("dsc", data_root=tmp_path, **how)  # type: ignore[arg-type]
    left = [pair for pair in zip(texts, labels, strict=True) if pair[0] not in texts[:6]]
    assert task.train == ([text for text, _ in left], [label for _, label in left])
    assert task.val == ([text for text, _ in asked], [label for _, label in asked])
    write_csv(place / "val.csv", list(zip(texts, labels, strict=True)), ["text", "label"])
    with pytest.raises(ValueError, match="expected training texts of task 'phone' of their own, found all of them in"):
        make_stream("dsc", data_root=tmp_path, **how)  # type: ignore[arg-type]
