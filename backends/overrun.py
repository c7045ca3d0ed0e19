"""Whether a run keeps to the budget that its memory was planned for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rldsl.backends.keys import memory_key
from rldsl.compiler.plan import Plan
from rldsl.diagnostics import Diagnostic, Severity

MIB = 1 << 20


class Overrun:
    """Looks at the lines of a run until one is over the budget."""

    def __init__(self, plan: Plan) -> None:
        self._memory = plan.memory

    def seen(self, line: Mapping[str, float | None]) -> Iterator[Diagnostic]:
        """RL0814, once a run: of the first step with an op that took more than the budget, the one that took most."""
        if self._memory is None:
            return
        found = {m.op: line.get(memory_key(m.op)) or 0.0 for m in self._memory.ops}
        worst = max(found, key=lambda op: found[op], default="")
        if not worst or found[worst] <= self._memory.budget:
            return
        predicted = max(m.workspace + m.resident for m in self._memory.ops if m.op == worst)
        yield Diagnostic(
            code="RL0814",
            severity=Severity.WARNING,
            message=f"`{worst}` took {found[worst] / MIB:,.0f} MiB of a rank, more than its budget",
            expected=f"at most {self._memory.budget / MIB:,.0f} MiB; {predicted / MIB:,.0f} MiB were predicted",
            found=f"{found[worst] / MIB:,.0f} MiB in step {int(line['step'] or 0) + 1}",
            fix="say what the plan assumes wrongly, such as `max_prompt_tokens`, or plan with a smaller `--memory`",
        )
        self._memory = None
