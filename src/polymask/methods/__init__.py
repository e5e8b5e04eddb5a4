"""Every method, one file each, in one visible dict."""

from __future__ import annotations

from polymask.method.contract import Method
from polymask.methods.adahat import AdaHAT
from polymask.methods.apd import APD
from polymask.methods.baselines import Finetune, Independent, LinearProbe
from polymask.methods.ctr import CTR
from polymask.methods.exssnet import ExSSNeT
from polymask.methods.hat import HAT
from polymask.methods.ksm import KSM
from polymask.methods.packnet import PackNet
from polymask.methods.piggyback import Piggyback
from polymask.methods.supsup import SupSup
from polymask.methods.tfm import TFM
from polymask.methods.wsn import WSN

METHODS: dict[str, type[Method]] = {
    "packnet": PackNet,
    "piggyback": Piggyback,
    "ksm": KSM,
    "supsup": SupSup,
    "wsn": WSN,
    "exssnet": ExSSNeT,
    "tfm": TFM,
    "hat": HAT,
    "adahat": AdaHAT,
    "apd": APD,
    "ctr": CTR,
    "finetune": Finetune,
    "linear_probe": LinearProbe,
    "independent": Independent,
}

__all__ = [
    "APD",
    "CTR",
    "HAT",
    "KSM",
    "METHODS",
    "TFM",
    "WSN",
    "AdaHAT",
    "ExSSNeT",
    "Finetune",
    "Independent",
    "LinearProbe",
    "PackNet",
    "Piggyback",
    "SupSup",
]
