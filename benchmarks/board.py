"""What accuracy does a kilobyte a task buy? One frozen MiniLM, ours beside PEFT's and two bounds, on texts.

First `--phase A`: four rates an arm, by validation. Then `--phase B`, once: the chosen rate, three seeds. Every run is
a file of benchmarks/board/, which is not run again. `--write docs/board.md` makes the page and its picture.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "fidelity"))
from _texts import folder

from _board import ARMS, BATCH, EPOCHS, EXAMPLES, HERE, LENGTH, RESULTS, STREAMS, WORK, chosen, place, result
from _board_ours import of_phase
from _board_page import write_page
from polymask.disk import write_file
from polymask.streams import prepare
from polymask.streams.feed import Feed


def tokens(phase: str, data_root: str) -> Path:
    """A folder with the tokens of every task of a phase, for those who have other data classes."""
    about = "-".join(map(str, (*STREAMS[phase], LENGTH, EXAMPLES)))
    if (done := WORK / f"tokens-{phase}-{about}").exists():
        return done
    WORK.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(dir=WORK))
    for number, task in enumerate(of_phase(phase, data_root)):
        feeds, arrays = prepare(task, seed=0), {}
        for part, feed in (("train", feeds.train), ("val", feeds.val), ("test", feeds.scored[1])):
            arrays |= {f"{part}/{name}": array for name, array in whole(feed).items()}
        np.savez(home / f"{number}.npz", task=task.name, outputs=feeds.outputs, **arrays)
    with suppress(OSError):  # another process has written the same
        home.rename(done)
    shutil.rmtree(home, ignore_errors=True)
    return done


def whole(feed: Feed) -> dict[str, np.ndarray]:
    """All tokens and labels of a part, as wide as its longest text: a batch of it is as wide as its own."""
    batches = list(feed.ordered(64))
    found = {"labels": np.concatenate([y.numpy() for _, y in batches])}
    width = max(x["attention_mask"].shape[1] for x, _ in batches)
    for name in ("input_ids", "attention_mask"):
        rows = [x[name].numpy() for x, _ in batches]
        found[name] = np.concatenate([np.pad(one, ((0, 0), (0, width - one.shape[1]))) for one in rows])
    assert len(found["labels"]) == feed.size
    return found


def command(arm: str, rate: float, seed: int, args: argparse.Namespace) -> list[str]:
    """What measures one run, in a process of its own: its memory is counted."""
    about = ARMS[arm]
    if about.by == "polymask":
        told = ["--arm", arm, "--rate", str(rate), "--seed", str(seed), "--phase", args.phase]
        return [sys.executable, str(HERE / "_board_ours.py"), *told, "--data-root", args.data_root]
    if args.peft is None:
        raise SystemExit(f"expected --peft, an environment with peft 0.21.2 for {arm!r}, found none")
    told = ["--how", about.how, "--options", json.dumps(about.options), "--host", folder(), "--lr", str(rate)]
    told += ["--data", str(tokens(args.phase, args.data_root)), "--seed", str(seed)]
    told += ["--epochs", str(EPOCHS), "--batch", str(BATCH), *(["--test"] if args.phase == "B" else [])]
    told += ["--half"] if about.bits == 16 else []
    told += [] if (beside := about.rate_beside()) is None else ["--head-lr", str(beside)]
    return [str(args.peft / "bin" / "python"), str(HERE / "peers" / "peft_board.py"), *told]


def measure(arm: str, rate: float, seed: int, args: argparse.Namespace) -> None:
    """Run what is missing and write it down."""
    file = place(args.phase, arm, rate, seed)
    if file.exists():
        return
    done = subprocess.run(command(arm, rate, seed, args), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arm} at {rate:g}: {done.stderr[-2000:]}")
    took: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    took["bytes"] = round(mean(took["bytes"]))
    more: dict[str, Any] = {"valid accuracy": mean(took["valid"].values()), "parts": took.get("parts", {})}
    if args.phase == "B":
        more |= {"test accuracy": mean(map(mean, took["hits"].values())), "hits": took["hits"]}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, (json.dumps(result(arm, rate, seed, took, **more), indent=1) + "\n").encode())
    print(
        f"{args.phase}: {arm}, {rate:g}, seed {seed}: {more['valid accuracy']:.4f}, {took['bytes']:,} bytes", flush=True
    )


def runs(phase: str, arms: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, float, int]]:
    """(arm, rate, seed) of every run: of A four rates an arm; of B the chosen one, every arm before another seed."""
    if phase == "A":
        yield from ((arm, rate, 0) for arm in arms if ARMS[arm].like is None for rate in ARMS[arm].rates)
    else:
        yield from ((arm, chosen(arm), seed) for seed in seeds for arm in arms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("POLYMASK_DATA_ROOT"), help="a folder of data sets")
    parser.add_argument("--phase", choices=tuple(STREAMS))
    parser.add_argument("--peft", type=Path, help="an environment with peft 0.21.2")
    parser.add_argument("--only", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of phase B")
    parser.add_argument(
        "--minutes", type=float, default=9.5, help="begin no run after so many; the same command goes on"
    )
    parser.add_argument("--write", type=Path, help="write the page here, and its picture beside it")
    args = parser.parse_args()
    if args.write is not None:
        write_page(args.write)
    elif args.phase is None:
        print("expected --phase A or B, or --write, found none: nothing is run")
    if args.phase is None:
        return
    if args.data_root is None:
        parser.error("expected --data-root, a folder that holds local/20news-bydate, found none")
    start = time.monotonic()
    for arm, rate, seed in runs(args.phase, args.only, args.seeds):
        if time.monotonic() - start > 60 * args.minutes:
            print(f"Stopped after {args.minutes:g} minutes: run the same command again, it goes on.")
            sys.exit(3)
        measure(arm, rate, seed, args)
    print(f"All runs of phase {args.phase} are in {RESULTS / args.phase}.")


if __name__ == "__main__":
    main()
