"""What an editor waits for, on an algorithm of 30 nodes: a hover, a definition, a completion, an analysis.

python bench/lsp_speed.py prints milliseconds: the median and the worst over all places of the file, and the limit.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rldsl.lsp.complete import complete
from rldsl.lsp.facts import hover
from rldsl.lsp.view import View, analyse

LIMIT_MS = 50.0
NODES = 30


def large(nodes: int) -> str:
    """An algorithm of `nodes` nodes."""
    middle = "".join(
        f"  node step{i} = compute sum_scores(score{i}, score{i}) -> score{i + 1}\n" for i in range(nodes - 4)
    )
    return f"""algorithm large {{
  model actor : policy = scratch(; alphabet = "01=")
  input prompts, answers : text[prompt] = jsonl("rows.jsonl") with batch = 8
  node rollout = actor.generate(prompts; n = 4, max_new_tokens = 4) -> tokens, response_mask, rollout_logp, completions
  node reward = compute exact_match(completions, answers) -> score0
{middle}  node advantage = compute group_advantage(score{nodes - 4}) -> advantages
  node update = actor.train policy_loss(tokens, response_mask, advantages, old_logp = rollout_logp) with lr = 0.001
}}
"""


def milliseconds(action: Callable[[int], object], places: range) -> list[float]:
    took = []
    for place in places:
        began = time.perf_counter()
        action(place)
        took.append((time.perf_counter() - began) * 1000)
    return took


def main() -> None:
    text = large(NODES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.rl"
        whole = milliseconds(lambda _: analyse(path, text), range(5))
        view = View.of(path, text, analyse(path, text).module)

        def define(place: int) -> None:
            occurrence = view.source.scan.at(place)
            if occurrence:
                view.definitions(occurrence)

        places = range(0, len(text), 3)
        actions = {"hover": lambda p: hover(view, p), "definition": define, "completion": lambda p: complete(view, p)}
        for name, action in actions.items():
            took = milliseconds(action, places)
            print(f"{name:<11} median {median(took):7.3f} ms  worst {max(took):7.3f} ms  limit {LIMIT_MS:.0f} ms")
        print(f"{'analysis':<11} median {median(whole):7.3f} ms (as you type, in the background)")


if __name__ == "__main__":
    main()
