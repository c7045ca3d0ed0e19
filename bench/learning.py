"""A small model learns a toy task from random weights, by GRPO and by PPO, on two ranks.

    python bench/learning.py [--ranks 2]

For each: mean reward of the first ten and last ten steps, and seconds from the command's start to its end.
Limits: above 0.9, in under 120 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOYS = Path(__file__).parents[1] / "examples" / "toy"
STEPS = {"grpo": 200, "ppo": 120}


def learn(name: str, ranks: int, folder: Path) -> None:
    """Run one and print its line."""
    command = [
        sys.executable,
        "-m",
        "rldsl",
        "run",
        str(TOYS / f"{name}.rl"),
        "--backend",
        "torchrun",
        "-n",
        str(ranks),
    ]
    begin = time.perf_counter()
    subprocess.run([*command, "--steps", str(STEPS[name]), "--run-dir", str(folder)], check=True, capture_output=True)
    elapsed = time.perf_counter() - begin
    scores = [json.loads(line)["score"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, last = statistics.mean(scores[:10]), statistics.mean(scores[-10:])
    print(
        f"learning {name} ranks={ranks} steps={len(scores)} first10={first:.3f} last10={last:.3f} (limit 0.9) "
        f"seconds={elapsed:.1f} of_limit={elapsed / 120:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    ranks: int = parser.parse_args().ranks
    for name in STEPS:
        with tempfile.TemporaryDirectory() as folder:
            learn(name, ranks, Path(folder) / "run")


if __name__ == "__main__":
    main()
