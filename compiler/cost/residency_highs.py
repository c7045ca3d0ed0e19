"""The residency problem as a mixed-integer program for HiGHS; needs `highspy`."""

from __future__ import annotations

from rldsl.compiler.cost.residency import Problem

_SECONDS = 1.0
# Bytes make badly scaled rows.
_UNIT = 1 << 20


def solve(problem: Problem) -> tuple[frozenset[int], float] | None:
    """The gaps that the best choice swaps, and the seconds that none is below; None if none is found in a second."""
    import highspy

    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    model.setOptionValue("time_limit", _SECONDS)
    model.setOptionValue("threads", 1)
    swap = [model.addBinary(obj=gap.cost) for gap in problem.gaps]
    write = [model.addBinary(obj=seconds) for seconds in problem.writes]
    for x, gap in zip(swap, problem.gaps, strict=True):
        if gap.write is not None:
            model.addConstr(x <= write[gap.write])
    for work in problem.works:
        ways = [model.addBinary(obj=way.seconds) for way in work.ways]
        model.addConstr(sum(ways) == 1)
        for row in work.rows:
            needed = sum(z * (way.workspace / _UNIT) for z, way in zip(ways, work.ways, strict=True))
            made = sum(swap[i] * (problem.gaps[i].bytes / _UNIT) for i in problem.over[row])
            model.addConstr(needed <= problem.room[row] / _UNIT + made)
    for shelf in problem.shelves:
        kept = []
        for size, gaps in shelf.states:
            copy = model.addBinary()
            kept.append(copy * (size / _UNIT))
            for i in gaps:
                model.addConstr(swap[i] <= copy)
        if kept:
            model.addConstr(sum(kept) <= shelf.bytes / _UNIT)
    model.minimize()
    if model.getInfo().primal_solution_status != highspy.kSolutionStatusFeasible:
        return None
    chosen = frozenset(i for i, x in enumerate(swap) if model.val(x) > 0.5)
    return chosen, float(model.getInfo().mip_dual_bound)
