"""`python -m tests.benchmarks.gpu`: everything that is measured on a GPU, one table at the end.

    python -m tests.benchmarks.gpu --out gpu.json                    # all pieces
    python -m tests.benchmarks.gpu search reasoning --out gpu.json   # some; the others' figures stay
    python -m tests.benchmarks.gpu --dry --out dry.json              # tiny shapes, on whatever is there

Each piece is a process of its own that is stopped after `--minutes`; what it has measured by then is kept,
and `demo` and `beauty100m` go on from their last finished stage when they are called again. The table is
printed, and written as Markdown beside the JSON. The exit code is 1 if a piece failed or a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.benchmarks.gpu import beauty100m, demo, reasoning, search
from tests.benchmarks.gpu.results import DONE, Results

PIECES = ("search", "reasoning", "demo", "beauty100m")
ROOT = Path(__file__).parents[3]


def main(words: Sequence[str]) -> int:
    """Run the pieces, each in a process of its own; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(words)
    unknown = [piece for piece in options.pieces if piece not in PIECES]
    if unknown:
        parser.error(f"there is no piece {unknown[0]!r}; known: {', '.join(PIECES)}")
    if not options.dry and not torch.cuda.is_available():
        print("There is no GPU here; `--dry` runs everything on tiny shapes.", file=sys.stderr)
        return 2
    if options.inside:
        run_piece(options.inside, options.out, options.runs, dry=options.dry)
        return 0
    for piece in options.pieces or PIECES:
        print(f"gpu: {piece}", flush=True)
        status = _in_a_process(piece, options)
        if status != DONE:
            print(f"gpu: {piece}: {status}", flush=True)
            Results(options.out, dry=options.dry).end(piece, status)
    results = Results(options.out, dry=options.dry)
    results.show()
    options.out.with_suffix(".md").write_text(results.markdown())
    return 0 if results.good else 1


def run_piece(piece: str, out: Path, runs: Path, *, dry: bool) -> None:
    """Measure one piece here, keeping every figure the moment it is known."""
    results = Results(out, dry=dry)
    results.begin(piece)

    def keep(figures: dict[str, dict[str, object]]) -> None:
        results.keep(piece, figures)

    if piece == "search":
        search.measure(keep, dry=dry)
    elif piece == "reasoning":
        reasoning.measure(keep, dry=dry)
    else:
        {"demo": demo, "beauty100m": beauty100m}[piece].measure(keep, dry=dry, runs=runs)
    results.end(piece, DONE)


def _in_a_process(piece: str, options: argparse.Namespace) -> str:
    """Run a piece, and say how it ended."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--inside", piece]
    command += ["--out", str(options.out.resolve()), "--runs", str(options.runs.resolve())]
    command += ["--dry"] if options.dry else []
    Results(options.out, dry=options.dry).begin(piece)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # A session of its own, so that an engine that the piece has started does not outlive it on the device.
    child = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = child.wait(60 * options.minutes)
    except BaseException as stopped:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if not isinstance(stopped, subprocess.TimeoutExpired):
            raise
        return f"stopped after {options.minutes:g} minutes; call it again"
    return DONE if code == 0 else f"failed with exit code {code}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu")
    parser.add_argument("pieces", nargs="*", help=f"what to measure: {', '.join(PIECES)}; all if none")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="where figures are kept")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"), help="folder of the recipes' runs")
    parser.add_argument("--minutes", type=float, default=10, help="after which a piece is stopped")
    parser.add_argument("--dry", action="store_true", help="tiny shapes, on whatever is there")
    parser.add_argument("--inside", choices=PIECES, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
