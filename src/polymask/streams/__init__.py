"""Streams of tasks: where data come from, how they are cut into tasks, and how a loop reads them."""

from polymask.streams.by_name import NAMED, make_stream
from polymask.streams.classic import one_per_dataset, permute, rotate, split
from polymask.streams.feed import Feed, TensorFeed
from polymask.streams.folder import ImageFolder, folder_task
from polymask.streams.images import digits, digits_data, load_images
from polymask.streams.inputs import Inputs
from polymask.streams.loader import LoaderFeed
from polymask.streams.prepare import Feeds, prepare
from polymask.streams.stream import Stream, Task
from polymask.streams.texts.tables import load_texts
from polymask.streams.texts.text import Text
from polymask.streams.view import View

__all__ = [
    "NAMED",
    "Feed",
    "Feeds",
    "ImageFolder",
    "Inputs",
    "LoaderFeed",
    "Stream",
    "Task",
    "TensorFeed",
    "Text",
    "View",
    "digits",
    "digits_data",
    "folder_task",
    "load_images",
    "load_texts",
    "make_stream",
    "one_per_dataset",
    "permute",
    "prepare",
    "rotate",
    "split",
]
