"""How long `rldsl check` takes: a usual algorithm, cold and in process, and very large ones.

    python bench/check_speed.py [--runs 15]

Prints, as medians: seconds for 30 nodes in process after import (limit 0.050) and as a cold process (limit 0.4) beside
a Python that does nothing; seconds for 500 and 5,000 nodes (limit 3) and their ratio, which is about 10 where time is
linear; and for 64 chained diamonds, whose paths double with each. In process it is processor time, which is all that a
check takes; a cold start is timed by the clock. Exit 1 above a limit.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rldsl.compiler.pipeline import check_file

HEAD = """\
algorithm chain {
  model actor : policy = scratch(; alphabet = "01")
  model reference : policy = frozen actor
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score
  node ref = reference.logprob(tokens, response_mask) -> ref_logp
"""
DIAMOND = """\
  node left{k} = compute group_advantage(score{j}) -> left_score{k}
  node right{k} = compute group_advantage(score{j}) -> right_score{k}
  node join{k} = compute weigh(left_score{k}, right_score{k}) -> score{k}
"""
MINE = "import rldsl as rl\n\n\ndef weigh(a: rl.PerSample, b: rl.PerSample) -> rl.PerSample: ...\n"
LAST = """\
  node fit = actor.train policy_loss(tokens, response_mask, score{j}, old_logp = rollout_logp, ref_logp) with lr = 0.001
}}
"""


def diamonds(count: int) -> str:
    """`count` diamonds in a row, three nodes each: every one reads what the one before has joined."""
    links = [DIAMOND.format(k=k, j=k - 1 if k > 1 else "") for k in range(1, count + 1)]
    return 'use "mine.py"\n' + HEAD + "".join(links) + LAST.format(j=count or "")


def nodes(count: int) -> str:
    """An algorithm of about `count` nodes, none of which is dead."""
    return diamonds((count - 4) // 3)


def median(action: Callable[[], object], runs: int) -> float:
    """Seconds of processor time, after one run that does not count."""
    times = []
    for _ in range(runs + 1):
        begin = time.process_time()
        action()
        times.append(time.process_time() - begin)
    return statistics.median(times[1:])


def in_process(text: str, folder: Path, runs: int) -> float:
    """Seconds of one check after import. The program must be right: a wrong one is not checked to the end."""
    path = folder / "program.rl"
    path.write_text(text)
    found = check_file(path)
    assert not found, found
    return median(lambda: check_file(path), runs)


def cold(path: Path, runs: int) -> tuple[float, float]:
    """Seconds by the clock of `rldsl check PATH`, and of a Python that does nothing, in turn."""
    ours, floor = [], []
    for _ in range(runs):
        for command, times in (["-m", "rldsl", "check", str(path)], ours), (["-c", "pass"], floor):
            begin = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            times.append(time.perf_counter() - begin)
    return statistics.median(ours), statistics.median(floor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mine.py").write_text(MINE)
        usual = in_process(nodes(30), folder, runs)
        started, floor = cold(folder / "program.rl", runs)
        chained = in_process(diamonds(64), folder, max(runs // 3, 1))
        small, large = (in_process(nodes(n), folder, max(runs // 5, 1)) for n in (500, 5000))
    print(f"check_speed nodes=30 in_process_s={usual:.4f} limit_s=0.050")
    print(f"check_speed nodes=30 cold_s={started:.3f} python_alone_s={floor:.3f} limit_s=0.400")
    print(f"check_speed diamonds=64 in_process_s={chained:.4f}")
    print(f"check_speed nodes=500 in_process_s={small:.3f}")
    print(f"check_speed nodes=5000 in_process_s={large:.3f} limit_s=3.000 ratio_to_500={large / small:.1f}")
    return 0 if usual <= 0.05 and started <= 0.4 and large < 3 else 1


if __name__ == "__main__":
    sys.exit(main())
