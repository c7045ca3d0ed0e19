"""How long a user waits for `rldsl compile`, as a cold process, beside what no Python program can undercut.

    python bench/compile_cold.py [--runs 15]

Prints the median of both and their ratio, and whether torch was imported (it must not be). Limit: 0.6 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "examples" / "ppo.rl"


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begin


def imports_torch(plan: Path) -> bool:
    """Whether compiling imported torch."""
    arguments = ["compile", str(SOURCE), "--emit", str(plan)]
    program = f"import sys; from rldsl.cli import main; main({arguments!r}); sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs: int = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan.json"
        compile_it = [sys.executable, "-m", "rldsl", "compile", str(SOURCE), "--emit", str(plan)]
        start_only = [sys.executable, "-c", "import networkx, lark, msgspec"]
        # In turn, so that both see the same machine.
        pairs = [(seconds(compile_it), seconds(start_only)) for _ in range(runs + 1)][1:]
        ours, floor = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"compile_cold compile_s={ours:.3f} (min {min(p[0] for p in pairs):.3f}) python_with_imports_s={floor:.3f} "
            f"ratio={ours / floor:.2f} limit_s=0.600 torch={'imported' if imports_torch(plan) else 'not imported'}"
        )


if __name__ == "__main__":
    main()
