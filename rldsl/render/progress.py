"""A running job in the terminal: a live view, or one line a step where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rldsl.backends.keys import reward_key
from rldsl.compiler.ops import AnyOp, MetricOp, SyncWeightsOp, TakeOp, TrainOp, WaitOp
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import Diagnostic
from rldsl.render.diagnostics import DiagnosticView
from rldsl.render.measured import measured_lines
from rldsl.render.nodes import node_ids, roles_of
from rldsl.render.scopes import general
from rldsl.render.style import role_style
from rldsl.render.words import plural

_SPARKS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_WINDOW = 10
_LOOP_METRICS = ("kept", "rounds")
_TRAIN_METRICS = ("loss", "kl", "ref_kl", "grad_norm")


@dataclass(kw_only=True)
class RunState:
    """What is known of a running job. `history` holds each step's metrics, `op` is the one being run."""

    plan: Plan
    steps: int
    started: float
    history: list[dict[str, float]] = field(default_factory=list)
    op: AnyOp | None = None

    @property
    def done(self) -> int:
        """Steps finished."""
        return len(self.history)

    @property
    def rewards(self) -> list[float]:
        """Mean reward of each step that has one."""
        return [value for _, value in self._values(self.reward_key)] if self.reward_key else []

    @property
    def reward_key(self) -> str | None:
        """Under which key the reward is logged; None when the algorithm has none."""
        return reward_key(self.plan)

    @property
    def reward_words(self) -> str:
        """The last step's reward; `-` in a step without samples."""
        value = self.history[-1].get(self.reward_key or "")
        return "-" if value is None else f"{value:.3f}"

    @property
    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """The algorithm's own metrics that have a value: (step, value) for each step in which they had one."""
        # One called like one of the log's own numbers is logged as `metric/<name>`.
        names = dict.fromkeys(op.name for op in self.plan.ops() if isinstance(op, MetricOp))
        found = {name: self._values(f"metric/{name}") or self._values(name) for name in names}
        return {name: values for name, values in found.items() if values}

    def _values(self, key: str) -> list[tuple[int, float]]:
        return [(step, metrics[key]) for step, metrics in enumerate(self.history) if key in metrics]

    @property
    def validated(self) -> dict[str, list[tuple[int, float]]]:
        """Those of `metrics` that validations log."""
        guarded = {op.name for op in self.plan.ops() if isinstance(op, MetricOp) and op.guard and op.guard.every}
        return {name: values for name, values in self.metrics.items() if name in guarded}

    @property
    def train_nodes(self) -> list[str]:
        """Nodes whose loss is logged, in program order."""
        return [op.node or op.id for op in self.plan.ops() if isinstance(op, TrainOp)]

    @property
    def loops(self) -> list[str]:
        """Loops that collect prompts, in program order."""
        return [op.collection for op in self.plan.ops() if isinstance(op, TakeOp)]


class ProgressView:
    """Step, reward and metrics with their curves, a line a train node, seconds of the last step as bars."""

    def __init__(self, state: RunState, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self._roles = {general(name): role for name, role in roles_of(state.plan).items()}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        state = self._state
        yield self._head()
        if not state.history:
            yield Text(f"starting: {self._now() or 'workers and models'}", style="dim")
            return
        last = state.history[-1]
        if state.reward_key:
            curve = sparkline(state.rewards, max(options.max_width - 19, 8))
            yield Text.assemble(
                ("reward    ", "dim"), (f"{state.reward_words:>7}", "bold green"), "  ", (curve, "green")
            )
        yield from self._nodes(last)
        if state.metrics:
            yield self._curves(options.max_width)
        yield from self._speed(last)
        yield self._bars(last, options.max_width)

    def _head(self) -> Table:
        """`grpo  step 23 of 60 ━━━━━━───── 1:21, 2:10 to go`."""
        state = self._state
        seconds = self._clock() - state.started
        row = Table.grid(padding=(0, 2, 0, 0), expand=True)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        left = f", {duration(seconds / state.done * (state.steps - state.done))} to go" if state.done else ""
        row.add_row(
            Text.assemble((state.plan.algorithm, "bold"), f"  step {state.done} of {state.steps}"),
            ProgressBar(total=max(state.steps, 1), completed=state.done, complete_style="cyan", finished_style="green"),
            Text(duration(seconds) + left, style="dim"),
        )
        return row

    def _nodes(self, metrics: Mapping[str, float]) -> Iterator[Text]:
        """What loops that collect and training steps say of themselves."""
        nodes = [*self._state.loops, *self._state.train_nodes]
        longest = max(map(len, nodes), default=0)
        for node in nodes:
            shown = node_words(self._state, node, metrics)
            if shown:
                style = role_style(self._roles.get(node, ""))
                yield Text.assemble((f"{node:<{longest}}", style), *(f"   {words}" for words in shown))

    def _curves(self, width: int) -> Table:
        """The algorithm's metrics: last value, curve; of a validation's also the step that it is of."""
        table = Table.grid(padding=(0, 2, 0, 0))
        metrics, validated = self._state.metrics, self._state.validated
        room = max(width - 33 - max(map(len, metrics), default=0), 8)
        for name, values in sorted(metrics.items(), key=lambda m: m[0] not in validated):
            step, value = values[-1]
            curve = Text(sparkline([v for _, v in values], room), style="green")
            when = f"in step {step + 1}" if name in validated else ""
            table.add_row(Text(name, style="dim"), Text(f"{short(value):>7}", style="bold"), curve, Text(when, "dim"))
        return table

    def _speed(self, metrics: Mapping[str, float]) -> Iterator[Text]:
        parts = [f"{metrics['tokens_per_s']:.0f} tokens/s"] if "tokens_per_s" in metrics else []
        parts += [f"{metrics['seconds']:.1f} s a step"] if "seconds" in metrics else []
        now = self._now()
        parts += [f"now: {now}"] if now else []
        if parts:
            yield Text("   ".join(parts), style="dim")

    def _now(self) -> str:
        return "" if self._state.op is None else self._state.op.node or self._state.op.id

    def _bars(self, metrics: Mapping[str, float], width: int) -> Table:
        taken: dict[str, float] = {}
        for op in self._state.plan.ops():
            taken[_timed(op)] = taken.get(_timed(op), 0.0) + metrics.get(f"seconds/{op.id}", 0.0)
        longest = max(taken.values(), default=0.0)
        shown = {name: seconds for name, seconds in taken.items() if longest and seconds >= longest / 100}
        room = min(max(width - max(36, 16 + max(map(len, shown), default=0)), 10), 60)
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, seconds in shown.items():  # what takes no time is noise here
            style = role_style(self._roles.get(name, ""))
            table.add_row(Text(name, style=style), f"{seconds:6.2f} s", Text(bar(seconds / longest, room), style=style))
        return table


def _timed(op: AnyOp) -> str:
    """Under which name an op's seconds are shown: its node's, all iterations of a loop together."""
    return op.id if op.node is None or isinstance(op, SyncWeightsOp | WaitOp) else " + ".join(node_ids(op))


class Progress:
    """The observer of a run, see `rldsl.backends.observer`; its methods may be called from another thread.

    A context manager, so that the terminal is left clean whatever happens.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._state: RunState | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def on_start(self, plan: Plan, steps: int) -> None:
        """The job begins; what comes before the first step is loading."""
        self._state = RunState(plan=plan, steps=steps, started=time.monotonic())
        if self._console.is_terminal:
            self._live = Live(ProgressView(self._state), console=self._console, refresh_per_second=2)
            self._live.start()

    def on_warning(self, warning: Diagnostic) -> None:
        """Print it above what else there is to see."""
        self._console.print(DiagnosticView(warning))

    def on_op(self, op: AnyOp) -> None:
        """`op` begins on the observed rank."""
        self._running.op = op

    def on_step(self, metrics: Mapping[str, float | None]) -> None:
        """A step is done, with these numbers; None stands for one that was not finite."""
        self._running.history.append({name: value for name, value in metrics.items() if value is not None})
        if self._live is None:
            self._console.print(Text(step_line(self._running)), soft_wrap=True)
        else:
            self._live.refresh()

    def on_end(self) -> None:
        """The run is over, well or not: leave the terminal."""
        if self._state is not None:
            self._state.op = None
        self._stop()

    def conclude(self, run_dir: Path) -> None:
        """Say how a run that went well ended, and what it has left in `run_dir`."""
        self._console.print(Text("\n".join(ending(self._running, run_dir))), soft_wrap=True)

    @property
    def _running(self) -> RunState:
        assert self._state is not None, "on_start comes first"
        return self._state

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()


def step_line(state: RunState) -> str:
    """The last step on one line: `step 3/60  reward 0.412  loss 0.0123  151 tokens/s  3.9 s`."""
    last = state.history[-1]
    parts = [f"step {state.done:>{len(str(state.steps))}}/{state.steps}"]
    parts += [f"reward {state.reward_words}"] if state.reward_key else []
    for nodes in (state.loops, state.train_nodes):
        for node in nodes:
            prefix = f"{node}: " if len(nodes) > 1 else ""
            words = "  ".join(node_words(state, node, last))
            parts += [prefix + words] if words else []
    now = state.done - 1
    parts += [f"{name} {short(values[-1][1])}" for name, values in state.metrics.items() if values[-1][0] == now]
    parts += [f"{last['tokens_per_s']:.0f} tokens/s"] if "tokens_per_s" in last else []
    parts += [f"{last['seconds']:.1f} s"] if "seconds" in last else []
    return "  ".join(parts)


def node_words(state: RunState, node: str, metrics: Mapping[str, float]) -> list[str]:
    """What a loop that collects, or a training step, says of a step: `kept 17`, `rounds 2`; `loss 0.0123`."""
    if f"{node}/steps" in metrics and not metrics[f"{node}/steps"]:
        return ["no step taken"]
    names = _LOOP_METRICS if node in state.loops else _TRAIN_METRICS
    found = [(name, metrics[f"{node}/{name}"]) for name in names if f"{node}/{name}" in metrics]
    return [
        "no prompt kept" if (name, value) == ("kept", 0) else f"{name.replace('_', ' ')} {short(value)}"
        for name, value in found
    ]


def ending(state: RunState, run_dir: Path) -> Iterator[str]:
    """What a finished run says: how far the reward came, what lies in the run folder."""
    rewards = state.rewards
    if rewards:
        window = min(_WINDOW, len(rewards))
        first, last = _mean(rewards[:window]), _mean(rewards[-window:])
        which = "steps" if len(rewards) == state.done else f"of the {plural(len(rewards), 'step')} that had one"
        yield f"mean reward: {first:.3f} over the first {window}, {last:.3f} over the last {window} {which}"
    elif state.reward_key and state.done:
        yield "mean reward: -, no step had one"
    for name, values in state.validated.items():
        (begin, first), (end, last) = values[0], values[-1]
        yield f"{name}: {short(first)} in step {begin + 1}, {short(last)} in step {end + 1}"
    yield from measured_lines(state.plan, state.history)
    yield f"{plural(state.done, 'step')} in {duration(time.monotonic() - state.started)}; in {run_dir}:"
    if run_dir.is_dir():
        for path in sorted(run_dir.iterdir()):
            size = _size(path)
            yield f"  {path.name + ('/' if path.is_dir() else ''):<24} {size}"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve of at most `width` characters, least to greatest value; more values are averaged, none give none."""
    if not values:
        return ""
    count = min(len(values), width)
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [_mean(values[a:b]) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_SPARKS[round((m - low) * scale)] for m in means)


def bar(share: float, width: int) -> str:
    """A bar of `share` (0 to 1) of `width` characters, to an eighth of one; never quite empty."""
    eighths = max(1, round(share * width * 8))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def duration(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short(value: float) -> str:
    """Three significant digits, plain where they are readable."""
    return f"{value:.3g}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _size(path: Path) -> str:
    """The bytes of a file or of all files below a folder, in a readable unit."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    size = float(sum(p.stat().st_size for p in files))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
