"""SGD with momentum and weight decay, under which other libraries' masks forget: here no finished task moves a bit."""

from __future__ import annotations

import pytest

from polymask import METHODS, Training, learn
from polymask.nets import build_net
from polymask.streams import make_stream

LRS = {"piggyback": 1.0, "supsup": 0.3}
"""Scores take larger steps than weights."""

OPTIONS = {"hat": {"c": 0.05}}
"""Three epochs are few for HAT's penalty, which under the paper's weight shuts these small layers before they learn."""


QUICK = {"packnet", "hat", "finetune"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.full) for n, kind in METHODS.items() if not kind.needs],
)
def test_no_finished_task_moves_under_momentum_and_decay(name):
    training = Training(
        epochs=3, optimizer="sgd", lr=LRS.get(name, 0.05), momentum=0.9, weight_decay=5e-4, batch_size=32, device="cpu"
    )
    model = build_net("mlp", (1, 8, 8), 10, hidden=(32, 32))
    report = learn(
        model, make_stream("digits-permuted", tasks=2), name, training=training, options=OPTIONS.get(name)
    ).report
    first, last = report["accuracy"][0][0], report["accuracy"][-1][0]
    assert first > 0.3, "expected a task that has learned something (0.1 is chance): one that has not proves nothing"
    if METHODS[name].card.exact:
        assert report["max_logit_drift"] == 0.0
        assert first == last
    elif METHODS[name].slows or METHODS[name].drifts:
        assert 0 < report["max_logit_drift"] < 5
    else:
        assert report["max_logit_drift"] > 1.0
        assert first - last > 0.1
