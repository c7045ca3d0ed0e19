"""A plan's programs as tables: what each rank does in a step, in which order, and why it is so."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from rldsl.compiler.ops import AnyOp, parts
from rldsl.compiler.plan import Plan, Program, plan_hash, to_builtins
from rldsl.render.memory import fit_words
from rldsl.render.nodes import roles_of
from rldsl.render.rank import phases_words
from rldsl.render.ranks import ranks_of
from rldsl.render.scopes import general, scope_of_op
from rldsl.render.style import quoted, role_style
from rldsl.render.words import describe, flow, guard_words, kind_of, model_words, ranks_words, scalar

_NARROW = 100


class PlanHeader:
    """What the plan is: algorithm, hash, ranks, parameters, models."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plan = self._plan
        digest = plan_hash(to_builtins(plan))[:12]
        yield Text.assemble((plan.algorithm, "bold"), (f"  plan {digest}", "dim"))
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(ratio=1)
        for name, text in self._facts():
            table.add_row(name, text)
        yield table

    def _facts(self) -> Iterator[tuple[str, Text]]:
        plan = self._plan
        if plan.source.path:
            yield "from", Text(plan.source.path)
        yield "ranks", Text(ranks_words(plan) + (f", on {plan.cluster}" if plan.cluster else ""))
        if plan.parameters:
            pairs = (f"{name}={scalar(value)}" for name, value in plan.parameters.items())
            yield "parameters", Text(", ".join(pairs))
        for index, model in enumerate(plan.models):
            yield ("models" if index == 0 else ""), Text.assemble((model.name, "bold"), f" : {model_words(model)}")
        for index, (phase, where) in enumerate(phases_words(plan)):
            yield ("phases" if index == 0 else ""), Text.assemble((phase, "bold"), f" : {where}")
        if fits := fit_words(plan):
            yield "memory", Text(fits)
        if "seed" not in plan.parameters:
            yield "seed", Text(str(plan.seed))


class ProgramView:
    """One rank class's program: number, op, node, what it does, `all` where the ranks of its group meet.

    `only` are the ids of the ops shown.
    """

    def __init__(self, plan: Plan, program: Program, only: frozenset[str] | None = None) -> None:
        self._program = program
        self._only = only
        self._total = plan.world_size
        self._roles = roles_of(plan)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text.assemble(
            (f"Each step of {ranks_of(self._program, self._total)}", "bold"),
            ("   * all ranks of the group meet here", "dim"),
        )
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), expand=True, header_style="dim")
        table.add_column("#", justify="right", no_wrap=True, style="dim")
        table.add_column("op", no_wrap=True)
        wide = options.max_width >= _NARROW
        if wide:
            table.add_column("node", no_wrap=True, max_width=24)
        table.add_column("what it does", ratio=1)
        shown = ((i, op) for i, op in enumerate(self._program.ops) if self._only is None or op.id in self._only)
        for index, op in shown:
            meets = "*" if op.collective else " "
            cells = [Text.assemble((meets, "bold yellow"), kind_of(op)), *([self._node(op)] if wide else [])]
            table.add_row(str(index), *cells, self._what(op, wide=wide), style="dim" if op.node is None else "")
        yield table

    def _node(self, op: AnyOp) -> Text:
        """The op's nodes, or the block for whose nodes it loads."""
        names = [part.node or scope_of_op(part).prefix for part in parts((op,))]
        each = [Text(n, style=role_style(self._roles.get(n, "")), overflow="fold") for n in dict.fromkeys(names)]
        return Text(", ", style="dim", overflow="fold").join(each)

    def _what(self, op: AnyOp, *, wide: bool) -> Group:
        head = Text(describe(op))
        node = self._node(op)
        if node and not wide:
            head = Text.assemble(node, ": ", head)
        if op.guard:
            head = Text.assemble(head, (f"  ({guard_words(op.guard)})", "magenta"))
        fields = flow(op)
        lines = [head, *([Text(fields, style="cyan")] if fields else [])]
        return Group(*lines, *(quoted(f"because {r.why} ({r.by})", "dim italic") for r in op.because))


class DroppedView:
    """What the compiler took away, by which pass, and why; nothing when it kept all."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._plan.dropped:
            return
        yield Text("Not in the program", style="bold")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), expand=True, header_style="dim")
        table.add_column("what", no_wrap=True)
        table.add_column("why", ratio=1)
        table.add_column("pass", style="dim")
        # What is gone from every iteration of a loop is said once.
        for what, why, by in dict.fromkeys((general(d.what), d.why, d.by) for d in self._plan.dropped):
            table.add_row(what, quoted(why), by)
        yield table
