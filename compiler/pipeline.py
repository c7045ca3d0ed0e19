"""From a source file to a plan: the passes, in order, with the verifier between every two."""

from __future__ import annotations

import gc
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import msgspec

from rldsl.compiler.frontend import load_graph, read_source
from rldsl.compiler.ir import BUILT_IN, Deploy, Graph, Module, changed
from rldsl.compiler.parse import parse
from rldsl.compiler.passes.base import Context, Pass
from rldsl.compiler.passes.bind_arguments import BindArguments
from rldsl.compiler.passes.bind_parameters import BindParameters
from rldsl.compiler.passes.check_counts import CheckCounts
from rldsl.compiler.passes.check_deploy import CheckDeploy
from rldsl.compiler.passes.check_ranges import CheckRanges
from rldsl.compiler.passes.check_sequences import CheckSequences
from rldsl.compiler.passes.check_shapes import CheckShapes
from rldsl.compiler.passes.check_types import CheckTypes
from rldsl.compiler.passes.check_unique import CheckUnique
from rldsl.compiler.passes.compute_depth import ComputeDepth
from rldsl.compiler.passes.elide_old_logp import ElideOldLogp
from rldsl.compiler.passes.eliminate_dead import EliminateDead
from rldsl.compiler.passes.emit_programs import EmitPrograms
from rldsl.compiler.passes.flatten_blocks import FlattenBlocks
from rldsl.compiler.passes.fold_conditions import FoldConditions
from rldsl.compiler.passes.fuse_forwards import FuseForwards
from rldsl.compiler.passes.infer_edges import InferEdges
from rldsl.compiler.passes.insert_frees import InsertFrees
from rldsl.compiler.passes.lower_nodes import LowerNodes
from rldsl.compiler.passes.lower_reshards import LowerReshards
from rldsl.compiler.passes.lower_weights import LowerWeights
from rldsl.compiler.passes.merge_equal_nodes import MergeEqualNodes
from rldsl.compiler.passes.order_equal_depths import OrderEqualDepths
from rldsl.compiler.passes.overlap_computes import OverlapComputes
from rldsl.compiler.passes.overlap_moves import OverlapMoves
from rldsl.compiler.passes.overlap_transfers import OverlapTransfers
from rldsl.compiler.passes.place_on_mesh import PlaceOnMesh
from rldsl.compiler.passes.plan_memory import PlanMemory
from rldsl.compiler.passes.prefetch_loads import PrefetchLoads
from rldsl.compiler.passes.resolve_names import ResolveNames
from rldsl.compiler.passes.share_base_weights import ShareBaseWeights
from rldsl.compiler.passes.skip_zero_rows import SkipZeroRows
from rldsl.compiler.passes.unroll_loops import UnrollLoops
from rldsl.compiler.passes.warn_long_rows import WarnLongRows
from rldsl.compiler.passes.warn_unused import WarnUnused
from rldsl.compiler.passes.warn_unwanted import WarnUnwanted
from rldsl.compiler.plan import FieldSpec, Plan, Source
from rldsl.compiler.specs import figures_of_deploy, function_spec, model_spec
from rldsl.compiler.trials import Draft, Trials
from rldsl.compiler.verify import verify_module, verify_plan
from rldsl.compiler.volume import measured
from rldsl.diagnostics import Diagnostic, DiagnosticError, Diagnostics, did_you_mean, fail

CHECKS: tuple[Pass, ...] = (
    CheckUnique(),
    FlattenBlocks(),  # before names: what one means depends on the block
    ResolveNames(),
    BindArguments(),  # needs the signatures that names resolved to
    InferEdges(),
    CheckTypes(),  # walks along the edges
    WarnUnused(),  # before values take the place of names
    CheckRanges(),
    BindParameters(),  # needs the ranges that hold something
    CheckDeploy(),
)
"""Run one after the other whatever they find: a user sees every mistake at once."""

LOWERING: tuple[Pass, ...] = (
    FoldConditions(),
    CheckCounts(),  # counts only what is left
    WarnUnwanted(),  # of loops as they are written, not once for each iteration
    UnrollLoops(),  # one body has been checked; from here on each iteration is on its own
    CheckSequences(),  # of iterations one by one: what a loop carries differs between them
    MergeEqualNodes(),  # before elision, which knows a log-prob by its node
    ElideOldLogp(),  # before dead code: it leaves some behind
    SkipZeroRows(),  # after conditions: whether a loss has its KL term decides it
    EliminateDead(),
    WarnLongRows(),  # of what is left, each iteration of a loop by itself
    PlaceOnMesh(),
    CheckShapes(),  # needs the groups
    ShareBaseWeights(),  # needs to know where each model lies; before the order, which counts changes of weights
    ComputeDepth(),
    OrderEqualDepths(),
    LowerNodes(),  # needs the order
    FuseForwards(),  # before reshards: one forward wants its rows moved once
    LowerReshards(),  # before weights and frees: it adds readers
    LowerWeights(),
    PrefetchLoads(),
    OverlapTransfers(),  # before functions: they run beside transfers that hold the program up, not beside others
    OverlapComputes(),  # after all that reads, moves or uses a model; before frees: what it reads stays until the wait
    InsertFrees(),  # last of the rewrites: it must see every reader
    PlanMemory(),  # after frees: fields that are held take memory too
    OverlapMoves(),  # needs the moves, and the room that is left
    EmitPrograms(),
)
"""Run on a program without errors, each on what the one before left without errors."""

PASSES = CHECKS + LOWERING
PASS_NAMES = tuple(p.name for p in PASSES)
OPTIONAL_PASSES = frozenset(
    {
        MergeEqualNodes.name,
        ElideOldLogp.name,
        SkipZeroRows.name,
        ShareBaseWeights.name,
        OrderEqualDepths.name,
        FuseForwards.name,
        PrefetchLoads.name,
        OverlapTransfers.name,
        OverlapComputes.name,
        PlanMemory.name,
        OverlapMoves.name,
    }
)
"""Those without which a plan still is one, only slower."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says about a compilation. The plan names its source relative to `plan_dir`.

    `cluster` and `layouts` are lines of a `deploy` block, such as `4 x cpu`, `actor.generate : hf(dp = 2)` and
    `reward on 2..3`.
    `memory` is the budget of a rank in bytes, in place of the hardware's.
    """

    settings: tuple[str, ...] = ()
    deploy: Path | None = None
    cluster: str | None = None
    layouts: tuple[str, ...] = ()
    world_size: int | None = None
    disable: frozenset[str] = frozenset()
    memory: int | None = None
    plan_dir: Path | None = None
    observe: Callable[[str, Module, float], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A verified plan, what was worth a warning, and the module it was emitted from."""

    plan: Plan
    warnings: tuple[Diagnostic, ...]
    module: Module
    source_dir: Path


def compile_file(path: Path, options: Options | None = None) -> Compiled:
    """Compile `path` (.rl or .py). Raises DiagnosticError with everything that is wrong."""
    options = options or Options()
    source = read_source(path)
    found = Diagnostics()
    with _no_garbage():
        graph = load_graph(path, source, found)
        compiled = compile_graph(graph, options, source_dir=path.parent, found=found)
        origin = Source(
            path=_relative(path, options.plan_dir or Path()),
            sha256=hashlib.sha256(source.encode()).hexdigest(),
            **_places(graph, path, options.plan_dir or Path()),
        )
        return replace(compiled, plan=_with_source(compiled.plan, origin))


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Without the collector, which would look for circles in graphs that have none, for a third of the time.

    What was made meanwhile then counts as old, or the collector would go through all of it at once.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # else someone has frozen what must stay so
            gc.freeze()
            gc.unfreeze()
        if collects:
            gc.enable()


def check_file(path: Path, options: Options | None = None) -> tuple[Diagnostic, ...]:
    """Every error and warning, in source order; nothing is raised for the user's faults."""
    try:
        return compile_file(path, options).warnings
    except DiagnosticError as error:
        return error.diagnostics


def compile_graph(graph: Graph, options: Options, *, source_dir: Path, found: Diagnostics | None = None) -> Compiled:
    """Run the passes on a graph that a front end made; `found` holds what that has found wrong already."""
    context = _context(options, source_dir, found or Diagnostics())
    graph = replace(graph, deploy=_deploy(options, graph.deploy))
    module = run_passes(Module(graph=graph), CHECKS, context, options)
    context.found.raise_if_errors()
    context = replace(context, relower=_relower(context, options))
    context = replace(context, trials=_trials(module, context, options))
    for one in LOWERING:
        module = run_passes(module, (one,), context, options)
        context.found.raise_if_errors()
    plan = _plan(module)
    problems = verify_plan(plan, module.signatures)
    assert not problems, f"the compiler made a plan that its verifier refuses: {[p.message for p in problems]}"
    return Compiled(plan=plan, warnings=tuple(context.found), module=module, source_dir=source_dir)


def run_passes(module: Module, passes: tuple[Pass, ...], context: Context, options: Options) -> Module:
    """Apply `passes` in order, the verifier after each as long as no error is known."""
    for one in passes:
        if one.name in options.disable:
            continue
        begin, before = time.perf_counter(), module
        module = one.apply(module, context)
        if not context.found.has_errors:
            verify_module(module, one.name, known=before)
        if options.observe:
            options.observe(one.name, module, time.perf_counter() - begin)
    return module


def _relower(context: Context, options: Options) -> Callable[[Module], Module] | None:
    """The passes between the order and the memory plan, for this to try other orders."""
    if OrderEqualDepths.name in options.disable:
        return None
    names = [p.name for p in LOWERING]
    between = LOWERING[names.index(OrderEqualDepths.name) + 1 : names.index(PlanMemory.name)]
    passes = [p for p in between if p.name not in options.disable]
    quiet = replace(context, found=Diagnostics())  # what there is to say has been said of the first order

    def relower(module: Module) -> Module:
        for one in passes:
            module = one.apply(module, quiet)
        return module

    return relower


def _trials(module: Module, context: Context, options: Options) -> Trials:
    """Compilations of a checked module with changes."""
    passes = tuple(p for p in LOWERING if p.name not in options.disable)
    names = [p.name for p in passes]
    at = names.index(PlanMemory.name) if PlanMemory.name in names else len(names)
    start = Draft(module=module, world_size=context.world_size)
    return Trials(start=start, context=context, before=passes[:at], rest=passes[at:], emit=_plan)


def _context(options: Options, source_dir: Path, found: Diagnostics) -> Context:
    for name in sorted(options.disable - OPTIONAL_PASSES):
        what = "cannot be left out" if name in PASS_NAMES else "is no pass"
        fix = did_you_mean(name, OPTIONAL_PASSES)
        fail(
            "RL0207",
            f"--disable-pass: `{name}` {what}",
            expected=", ".join(sorted(OPTIONAL_PASSES)),
            found=name,
            fix=fix,
        )
    return Context(
        found=found,
        source_dir=source_dir,
        settings=_settings(options.settings),
        world_size=options.world_size,
        memory=options.memory,
    )


def _settings(raw: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for text in raw:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            fail("RL0304", f"--set: `{text}` is no setting", expected="NAME=VALUE", found=text)
        settings[name.strip()] = value
    return settings


def _deploy(options: Options, own: Deploy | None) -> Deploy | None:
    """The deployment of the file asked for, else the algorithm's own; then what the command line replaces in it."""
    deploy = own if options.deploy is None else _deploy_file(options.deploy)
    if options.cluster is not None:
        stated = _deploy_line("--cluster", f"cluster {options.cluster}")
        deploy = replace(deploy or Deploy(), count=stated.count, cluster=stated.cluster, figures=stated.figures)
    for text in options.layouts:
        stated = _deploy_line("--layout", text)
        before = deploy or Deploy()
        phases, nodes = {(p.model, p.phase) for p in stated.layouts}, {p.node for p in stated.places}
        kept = (p for p in before.layouts if (p.model, p.phase) not in phases)
        stay = (p for p in before.places if p.node not in nodes)
        deploy = replace(before, layouts=(*kept, *stated.layouts), places=(*stay, *stated.places))
    return deploy


def _deploy_file(path: Path) -> Deploy:
    graph = load_graph(path, read_source(path))
    if graph.deploy is None:
        fail("RL0506", f"`{path}` has no `deploy` block", fix="write `deploy { cluster 8 x h100 }`")
    return graph.deploy


def _deploy_line(option: str, line: str) -> Deploy:
    """One line of a `deploy` block, given as an option."""
    found = Diagnostics()
    deploy = parse(f"deploy {{ {line} }}", option, found).deploy
    if deploy is None or found.has_errors:
        example = '--cluster "4 x cpu"' if option == "--cluster" else '--layout "actor.generate : hf(dp = 2)"'
        text = line.removeprefix("cluster ")
        fail("RL0102", f"{option}: `{text}` is no line of a `deploy` block", found=text, fix=f"such as {example}")
    # The text is no file that could be shown.
    return replace(
        deploy,
        span=None,
        figures=tuple(changed(f, span=None) for f in deploy.figures),
        layouts=tuple(replace(p, span=None) for p in deploy.layouts),
        places=tuple(replace(p, span=None) for p in deploy.places),
    )


def _plan(module: Module) -> Plan:
    """The plan of a module whose programs are emitted."""
    graph = module.graph
    deploy = graph.deploy
    seed = module.values.get("seed", 0)
    used = sorted({n.call.function for n in graph.nodes if n.call.function and n.call.method not in BUILT_IN})
    plan = Plan(
        algorithm=graph.name,
        parameters=dict(module.values),
        cluster=deploy.cluster if deploy else None,
        figures=figures_of_deploy(deploy) if deploy else {},
        world_size=module.world_size,
        divides=module.divides,
        seed=seed if isinstance(seed, int) else 0,
        models=tuple(model_spec(m, module) for m in graph.models),
        fields=tuple(
            FieldSpec(name=n, type=str(i.type), producer=i.producer, per_prompt=i.per_prompt)
            for n, i in module.fields.items()
        ),
        functions=tuple(function_spec(module.signatures[f]) for f in used),
        groups=module.groups,
        phases=module.phases,
        roles={n.id: n.role for n in graph.nodes if n.role},
        depths=dict(module.depths),
        edges=tuple((e.source, e.target, f"{e.kind} {e.carries}".strip()) for e in graph.edges),
        dropped=module.dropped,
        programs=module.programs,
        memory=module.memory,
    )
    return measured(plan)


class _Places(TypedDict):
    """What a plan says of where its statements stand."""

    spans: dict[str, tuple[int, int]]
    files: dict[str, str]


def _places(graph: Graph, path: Path, plan_dir: Path) -> _Places:
    found = {name: span for name, span in graph.spans.items() if span}
    other = {name: span.file for name, span in found.items() if span.file != str(path)}
    return _Places(
        spans={name: (span.line, span.column) for name, span in found.items()},
        files={name: _relative(Path(file), plan_dir) for name, file in other.items()},
    )


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def _with_source(plan: Plan, source: Source) -> Plan:
    return msgspec.structs.replace(plan, source=source)
