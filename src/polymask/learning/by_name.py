"""A run from names alone, as the command line asks for it: stream, network, weights and method are looked up."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, nn

from polymask.builder import DEFAULTS, Builder
from polymask.learning.config import complete_options, said_of_identities
from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.learn import learn
from polymask.learning.learner import method_class
from polymask.learning.objective import Objective
from polymask.learning.options import JOINT, folder_name
from polymask.learning.training import Training
from polymask.learning.unnamed.scenario import Scenario, refuse_joint
from polymask.learning.unnamed.spare import refuse_spare
from polymask.method.contract import Method
from polymask.methods import METHODS
from polymask.nets.by_name import PRETRAINED, RANDOM, default_net, example_of, is_transformers
from polymask.nets.weights import load_weights
from polymask.sites.roles import head_of
from polymask.streams.by_name import make_stream
from polymask.streams.prepare import outputs_of, prepare
from polymask.streams.stream import Stream
from polymask.streams.texts.sets import are_texts
from polymask.streams.texts.text import local
from polymask.version import __version__

FIRST_TASK = "first-task"


def run_named(
    method: str = "packnet",
    stream: str = "digits",
    *,
    data: list[str] | None = None,
    data_root: str | None = None,
    tasks: int | list[list[int]] | None = None,
    order: list[int] | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    crop: int = 0,
    flip: bool = False,
    area: float = 1.0,
    label: str | None = None,
    text: list[str] | None = None,
    tokenizer: str | None = None,
    length: int | None = None,
    examples: int | None = None,
    metrics: list[str] | None = None,
    model: str | None = None,
    net: dict[str, Any] | None = None,
    weights: str | None = None,
    head: str | None = None,
    adapters: int = 0,
    spare: int = 0,
    scenario: Scenario | None = None,
    seed: int = 0,
    out: str | None = None,
    relearn: list[str] | None = None,
    how: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    training: Training | None = None,
) -> dict[str, Any]:
    """Learn a stream by a method, both by name; go on where an earlier call with the same folder was stopped.

    Args:
        method: what learns: a name that ``polymask methods`` lists, package.module:Class for a method of your own, or
            "joint" for joint training.
        stream: digits, digits-permuted or digits-rotated need no data; split, permuted, rotated or datasets (each a
            task) take ``data``; asc, dsc and 20news are texts that lie below the data root.
        data: names of Hugging Face data sets, or folders (./photos) with a folder of images for each class; of texts
            also files (.csv, .tsv, .jsonl), each a task, and folders of them.
        data_root: a folder that holds the named data sets; without it that of POLYMASK_DATA_ROOT, else the hub.
        tasks: how many tasks, or the groups of classes: [[0, 1], [2, 3]].
        order: in which the tasks are learned, by their places: 1 0 2.
        size: height and width that images are brought to.
        channels: channels that images are brought to.
        mean: what is subtracted from each channel, of pixels from 0 to 1; without it the mean of the training
            images, but of folders, which are not read beforehand, nothing.
        std: what each channel is divided by; without it the deviation of the training images.
        crop: pixels of padding for random crops while training.
        flip: mirror left and right at random while training.
        area: smallest share of the image that a random part has while training, such as 0.08; 1 keeps all.
        label: the column of labels, of data sets that have several.
        text: the column of texts, or the two of pairs: --text premise hypothesis.
        tokenizer: of texts: a folder or a name of transformers; without it that of the model.
        length: most tokens of a text; without it 128.
        examples: at most so many of each task's training and validation examples, a share of each class; without it
            all.
        metrics: accuracy, macro-F1 or both; the first chooses the epoch; without it accuracy.
        model: the network: mlp, convnet, lenet, alexnet, vgg or resnet18, a timm or transformers name, or
            package.module:factory; without it mlp, or convnet for colour images.
        net: arguments of the network, such as --net.width 20.
        weights: what it starts from: random, pretrained, first-task (trained with task 1, then frozen), or a file;
            without it first-task for a method that needs a trained frozen network, else random.
        head: the name of the head module, where it cannot be found.
        adapters: units of an adapter at the end of each branch of a transformer, which learns in its place.
        spare: outputs that a head which all tasks share has beyond the labels of the largest; the loss pushes them
            down, and SupSup tells by them which task an input is of.
        scenario: GNu or GNs: also score what is answered where nobody says which task an input is of, with labels that
            are each task's own, or that all share; GG, or without it: tasks are named.
        seed: key of every random draw.
        out: the run's folder; without it runs/METHOD-STREAM-SEED.
        relearn: names of tasks to learn again although they were removed from the folder's bank.
        how: further arguments of the stream, such as degrees.
        options: the method's own arguments.
        training: epochs, optimizer, device and so on; what is None follows the method's recipe.

    Returns:
        What ``results.json`` says, and under "out" where it is.

    Raises:
        ValueError: for a name that does not exist, or what ``learn`` raises.
    """
    training, how = training or Training(), how or {}
    kind = None if method == JOINT else method_class(method)
    refuse_spare(spare, method, shares=kind is not None)
    refuse_joint(scenario, kind is None)
    weights = choose_weights(kind, weights)
    places: dict[str, Any] = {"data_root": data_root, "tasks": tasks, "order": order or ()}
    places |= {"size": size, "channels": channels, "mean": mean, "std": std}
    places |= {"crop": crop, "flip": flip, "area": area}
    places |= {} if label is None else {"label": label}
    words = {"text": text, "tokenizer": tokenizer_for(model, stream, data, text, tokenizer), "length": length}
    places |= {key: value for key, value in words.items() if value is not None}
    places |= {} if examples is None else {"examples": examples}
    objective = Objective.of(metrics or ["accuracy"])
    made = make_stream(stream, data, seed=seed, **places, **how)
    net = {**(net or {}), **({"adapters": adapters} if adapters else {})}
    network, builder = build(made, model, net, weights, seed, training.val_fraction, spare)
    own = {"prefixes": "all", **(options or {})} if kind is None else complete_options(kind, options or {}, len(made))
    config: dict[str, Any] = {
        "polymask": __version__,
        "method": method,
        "stream": stream,
        "data": data,
        **places,
        **how,
    }
    name = model or builder.args["name"]
    config |= {"model": name, "net": {**DEFAULTS.get(name, {}), **net}, "weights": weights, "head": head, "seed": seed}
    config |= said_of_identities(spare, scenario) | asdict(training)
    config["options"] = {name: value for name, value in own.items() if name != "backbone"}
    config |= {"metrics": metrics} if metrics else {}
    common: dict[str, Any] = {"seed": seed, "training": training, "head": head, "config": config}
    common["objective"] = objective
    common["out"] = out = out or default_out(method, stream, data, seed)
    if kind is None:
        return {**learn_joint(network, made, **own, **common), "out": out}
    if "backbone" in own:
        own["backbone"] = FIRST_TASK if weights == FIRST_TASK else "given"
    common |= {"spare": spare, "scenario": scenario, "relearn": relearn or ()}
    learned = learn(network, made, kind, options=own, builder=builder, **common)
    return {**learned.report, "out": out}


def tokenizer_for(
    model: str | None, stream: str, data: Sequence[str] | None, text: Sequence[str] | None, tokenizer: str | None
) -> str | None:
    """The tokenizer of a stream of texts: the one that is named, else that of the model; None where there are no texts.

    Raises:
        ValueError: if there are texts, and no network that reads them is named.
    """
    if not are_texts(stream, data, text, tokenizer):
        return None
    if model is None:
        raise ValueError(
            "expected a network that reads texts, found none: --model, a folder or a name of transformers, or "
            "package.module:factory and a --tokenizer"
        )
    return tokenizer or (model if is_transformers(model) else None)


def default_out(method: str, stream: str, data: Sequence[str] | None, seed: int) -> str:
    """Where a run goes that is not told.

    >>> default_out("packnet", "split", ["ylecun/mnist"], 0)
    'runs/packnet-split-mnist-0'
    """
    names = [name.rstrip("/").rpartition("/")[2].replace(":", "-") for name in data or ()]
    return "/".join(("runs", "-".join([folder_name(method), stream, *names, str(seed)])))


def choose_weights(kind: type[Method] | None, weights: str | None) -> str:
    """What a method's network starts from.

    Raises:
        ValueError: if the method cannot start from it.

    >>> choose_weights(METHODS["piggyback"], None), choose_weights(METHODS["packnet"], None)
    ('first-task', 'random')
    """
    takes = kind is not None and "backbone" in inspect.signature(kind).parameters
    if weights is None:
        return FIRST_TASK if takes else RANDOM
    if not can_start_from(kind, weights):
        others = ", ".join(name for name, other in METHODS.items() if can_start_from(other, weights))
        name = JOINT if kind is None else kind.name
        raise ValueError(
            f"expected weights that {name} can start from, found {weights!r}, which is for {others}: "
            "leave --weights out"
        )
    return weights


def can_start_from(kind: type[Method] | None, weights: str) -> bool:
    """Whether a method reads the weights it is given, and can train them with the first task if it is told to."""
    if kind is None:
        return weights != FIRST_TASK
    if kind.drawn is not Method.drawn:
        return weights == RANDOM
    return weights != FIRST_TASK or "backbone" in inspect.signature(kind).parameters


def build(
    stream: Stream,
    model: str | None,
    net: Mapping[str, Any],
    weights: str,
    seed: int,
    val_fraction: float,
    spare: int = 0,
) -> tuple[nn.Module, Builder]:
    """A network as wide as the stream's largest task and the spare outputs, and how a bank builds it again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn of is said when the task is learned
        first = prepare(stream[0], seed=seed, val_fraction=val_fraction)
    example = first.example()
    shape = list(example.shape[1:]) if isinstance(example, Tensor) else None
    outputs = spare + max(outputs_of(task, seed) for task in stream)
    name = model or default_net(shape or ())
    # A folder in full: a bank of the run is opened from elsewhere too.
    place = str(local(name)) if is_transformers(name) else name
    args = {"name": place, "example_shape": shape, "outputs": outputs, "seed": seed, **net}
    builder = Builder("polymask.nets.by_name:build_model", args)
    if weights in (RANDOM, FIRST_TASK):
        return builder.build(), builder
    # A bank holds what was learned, so that it can be opened without what it began with.
    if weights == PRETRAINED:
        return replace(builder, args={**args, "weights": weights}).build(), builder
    network = builder.build()
    load_weights(network, weights, head_of(network, example_of(shape)))
    return network, builder
