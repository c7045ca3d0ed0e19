"""A reference interpreter: runs the typed graph as it was written, node by node, in one process.

Of the passes it needs only what makes loops plain nodes. Every condition is looked at when its node is reached, every
node that is there runs, old log-probs are always computed, no row is skipped, nothing is freed. An optimised plan
must give what this gives. Models, sampling, collections and functions are the engine's own, on one rank, so that a
difference is a pass's doing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import networkx as nx
from torch import Tensor

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Data, Ragged
from rldsl.backends.data.buffer import Buffer
from rldsl.backends.data.collection import Collection
from rldsl.backends.data.loader import Loader
from rldsl.backends.engines.engine import TRANSFORMERS, Engine
from rldsl.backends.engines.generate import Sampler, Samples
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.train import TrainBatch
from rldsl.backends.functions import Call, Functions
from rldsl.backends.outputs import lines_of
from rldsl.compiler import ir
from rldsl.compiler.expr import Expr, evaluate
from rldsl.compiler.methods import METHODS
from rldsl.compiler.ops import Aggregate, Arg, ExtendOp, GenerateOp, LoadOp, Scalar, TrainOp
from rldsl.compiler.plan import ModelSpec
from rldsl.compiler.signature import Signature
from rldsl.compiler.specs import data_source, function_spec, model_spec


@dataclass(frozen=True, kw_only=True)
class Step:
    """All fields that a step made, the rows of its outputs, and numbers.

    `metrics` holds what training reported as `<node>/<name>`, and each metric that had something to be computed from.
    """

    fields: Mapping[str, Column]
    metrics: Mapping[str, float]
    outputs: Mapping[str, list[dict[str, Any]]]


class Reference:
    """Interprets `module`, which has passed the checks and `unroll_loops`, for a run of `steps` steps.

    So names are resolved, fields typed, parameters bound. Paths of data and function files are relative to
    `source_dir`. Without `steps` no step counts as the last. Raises what engines, data and functions raise.
    """

    def __init__(
        self, module: ir.Module, *, source_dir: Path, steps: int | None = None, engine: Engine = TRANSFORMERS
    ) -> None:
        self._module, self._graph, self._comm, self._steps = module, module.graph, Comm.alone(), steps
        self._step, self._engines = -1, engine
        self._functions = Functions(source_dir)
        self._batches = dict(_batches(module))
        seed = module.values.get("seed", 0)
        self._seed = seed if isinstance(seed, int) else 0
        types = {name: info.type for name, info in module.fields.items()}
        self._loads = [self._load_op(item) for item in self._graph.inputs]
        streams = groupby(sorted(self._loads, key=_stream), _stream)
        self._loaders = {
            name: Loader(list(ops), types, rank=0, size=1, seed=self._seed, source_dir=source_dir)
            for name, ops in streams
        }
        self._models = self._load_models([model_spec(m, module) for m in self._graph.models])
        # Of models whose rollouts use weights a step older: what those of the next step use.
        self._older = {name: self._sampler(name, 1) for name in self._stale_models()}
        self._forget()

    def _forget(self) -> None:
        self._buffer, self._collections = Buffer(), dict[str, Collection]()
        self._metrics, self._outputs = dict[str, float](), dict[str, list[dict[str, Any]]]()
        self._temperatures: dict[str, float] = {}
        self._begun: dict[tuple[str | None, int], bool] = {}

    def _load_models(self, specs: Sequence[ModelSpec]) -> dict[str, Model]:
        made: dict[str, Model] = {}
        for spec in sorted(specs, key=lambda s: s.shares is not None):
            made[spec.name] = self._engines.load(
                spec,
                comm=self._comm,
                seed=self._seed,
                heads=[s for s in specs if s.shares == spec.name],
                trunk=None if spec.shares is None else made[spec.shares],
            )
        return made

    def _sampler(self, model: str, staleness: int) -> Sampler:
        return self._engines.sampler(self._models[model], seed=self._seed, staleness=staleness)

    def _stale_models(self) -> set[str]:
        rollouts = [n for n in self._graph.nodes if n.call.method in (ir.Method.GENERATE, ir.Method.EXTEND)]
        return {str(n.call.model) for n in rollouts if self._options(n)["staleness"]}

    def step(self) -> Step:
        """Run the next step."""
        self._step += 1
        self._comm.status.enter(step=self._step, op="reference", node=None)
        self._forget()
        # Those of the step before were copied before it trained; this step's are for the next.
        self._old, self._older = self._older, {name: self._sampler(name, 1) for name in self._older}
        self._begins(None, 0)
        position = {n.id: i for i, n in enumerate(self._graph.nodes)}
        for name in nx.lexicographical_topological_sort(self._graph.dag(), key=position.__getitem__):
            self._run(self._graph.node_of[name])
        return Step(fields=self._buffer.all(), metrics=self._metrics, outputs=self._outputs)

    def _put(self, columns: Mapping[str, Column]) -> None:
        for name, column in columns.items():
            self._buffer.put(name, column)

    def _begins(self, block: str | None, number: int) -> bool:
        """Whether a block's iteration runs; if so, its prompts are loaded before its first node."""
        if (block, number) not in self._begun:
            self._begun[block, number] = self._due(block)
            for item, op in zip(self._graph.inputs, self._loads, strict=True):
                if (item.block, item.round) == (block, number) and self._begun[block, number]:
                    self._put(self._loaders[op.stream].next(op, self._step))
        return self._begun[block, number]

    def _due(self, name: str | None) -> bool:
        if name is None:
            return True
        block = self._graph.block_of[name]
        if block.kind is ir.BlockKind.VALIDATE:
            return self._every(self._integer(block.bound))
        return name not in self._collections or not self._collections[name].full

    def _every(self, steps: int) -> bool:
        return self._step % steps == 0 or self._step + 1 == self._steps

    def _run(self, node: ir.Node) -> None:
        if not self._begins(node.block, node.round):
            return
        if node.when is not None and not evaluate(node.when, self._module.values):
            return
        run: dict[ir.Method | None, Callable[[ir.Node], None]] = {
            None: self._compute,
            ir.Method.GENERATE: self._generate,
            ir.Method.EXTEND: self._extend,
            ir.Method.LOGPROB: self._logprob,
            ir.Method.VALUE: self._value,
            ir.Method.SCORE: self._score,
            ir.Method.TRAIN: self._train,
            ir.Method.METRIC: self._metric,
            ir.Method.OUTPUT: self._output,
            ir.Method.COLLECT: self._take if node.block is None else self._collect,
        }
        run[node.call.method](node)

    def _model(self, node: ir.Node) -> Model:
        assert node.call.model is not None
        return self._models[node.call.model]

    def _engine(self, node: ir.Node, staleness: int) -> Sampler:
        name = str(node.call.model)
        return self._old[name] if staleness else self._sampler(name, 0)

    def _sampling(self, node: ir.Node) -> dict[str, Any]:
        """What ops that sample have in common."""
        options = self._options(node)
        whole = {name: int(_number(options[name])) for name in ("max_new_tokens", "top_k", "staleness")}
        parts = {name: _number(options[name]) for name in ("temperature", "top_p")}
        return {"id": node.id, "model": str(node.call.model), "outputs": {}, **whole, **parts}

    def _generate(self, node: ir.Node) -> None:
        op = GenerateOp(
            prompts=node.call.args[0].name, n=int(_number(self._options(node)["n"])), **self._sampling(node)
        )
        prompts = self._buffer.get(op.prompts, op=node.id)
        assert isinstance(prompts.data, list)
        made = self._engine(node, op.staleness).generate(prompts.data, prompts.ids, op, step=self._step)
        self._put_samples(node, made, prompts.per_prompt * op.n, op.temperature)

    def _extend(self, node: ir.Node) -> None:
        bound, _ = self._arguments(node.call.args)
        fields: dict[str, Any] = {**bound}
        op = ExtendOp(**fields, **self._sampling(node))
        rows = self._buffer.get(op.tokens, op=node.id)
        columns = self._buffer.aligned(list(bound.values()), per_prompt=rows.per_prompt, op=node.id)
        tokens, mask, logp, said = (
            columns[f].data for f in (op.tokens, op.response_mask, op.rollout_logp, op.observation)
        )
        done = None if op.done is None else columns[op.done].data
        assert isinstance(tokens, Ragged) and isinstance(mask, Ragged) and isinstance(logp, Ragged)
        assert isinstance(said, list) and not isinstance(done, list | Ragged)
        ids = columns[op.tokens].ids
        made = self._engine(node, op.staleness).extend(tokens, mask, logp, said, done, ids, op, step=self._step)
        self._put_samples(node, made, rows.per_prompt, self._temperatures[op.tokens])

    def _put_samples(self, node: ir.Node, made: Samples, per_prompt: int, temperature: float) -> None:
        results: tuple[Data, ...] = (made.tokens, made.response_mask, made.rollout_logp, made.completions)
        self._put({n: Column(made.ids, r, per_prompt) for n, r in zip(node.outputs, results, strict=False)})
        self._temperatures |= dict.fromkeys(node.outputs, temperature)

    def _sequences(self, node: ir.Node) -> tuple[Column, Ragged, Ragged]:
        tokens, mask = (self._buffer.get(a.name, op=node.id) for a in node.call.args[:2])
        assert isinstance(tokens.data, Ragged) and isinstance(mask.data, Ragged)
        return tokens, tokens.data, mask.data

    def _logprob(self, node: ir.Node) -> None:
        rows, tokens, mask = self._sequences(node)
        logp = self._model(node).logprob(tokens, mask, temperature=self._temperature(node))
        self._put({node.outputs[0]: Column(rows.ids, logp, rows.per_prompt)})

    def _value(self, node: ir.Node) -> None:
        rows, tokens, mask = self._sequences(node)
        self._put({node.outputs[0]: Column(rows.ids, self._model(node).value(tokens, mask), rows.per_prompt)})

    def _score(self, node: ir.Node) -> None:
        rows, tokens, mask = self._sequences(node)
        self._put({node.outputs[0]: Column(rows.ids, self._model(node).score(tokens, mask), rows.per_prompt)})

    def _collect(self, node: ir.Node) -> None:
        block = str(node.block)
        where, *fields = (self._buffer.get(a.name, op=node.id) for a in node.call.args)
        outer = self._graph.node_of[block].outputs
        self._collections.setdefault(block, self._collection(block)).add(
            where, dict(zip(outer, fields, strict=True)), self._comm
        )
        for arg, name in zip(node.call.args[1:], outer, strict=True):
            if arg.name in self._temperatures:
                self._temperatures[name] = self._temperatures[arg.name]

    def _collection(self, block: str) -> Collection:
        return Collection(batch=self._batches[f"{block}.kept"], step=self._step)

    def _take(self, node: ir.Node) -> None:
        collection = self._collections.setdefault(node.id, self._collection(node.id))
        self._metrics |= {f"{node.id}/kept": collection.kept, f"{node.id}/rounds": collection.rounds}
        self._put(collection.rows())

    def _metric(self, node: ir.Node) -> None:
        bound, absent = self._arguments(node.call.args)
        if absent:
            return
        field = self._buffer.get(bound["field"], op=node.id)
        data = self._buffer.aligned(list(bound.values()), per_prompt=field.per_prompt, op=node.id)
        values = _flat(data[bound["field"]].data)
        if "mask" in bound:
            values = values[_flat(data[bound["mask"]].data)]
        if len(values):
            self._metrics[node.id] = float(_REDUCE[str(node.call.function)](values.double()))

    def _output(self, node: ir.Node) -> None:
        if node.block is None and not self._every(int(_number(self._options(node)["every"]))):
            return
        names = [a.name for a in node.call.args]
        per_prompt = max(self._buffer.get(name, op=node.id).per_prompt for name in names)
        self._outputs[node.id] = lines_of(self._step, self._buffer.aligned(names, per_prompt=per_prompt, op=node.id))

    def _compute(self, node: ir.Node) -> None:
        assert node.call.function is not None
        signature = self._module.signatures[node.call.function]
        bound, absent = self._arguments(node.call.args)
        per_prompt = max((self._buffer.get(f, op=node.id).per_prompt for f in bound.values()), default=1)
        columns = self._buffer.aligned(list(bound.values()), per_prompt=per_prompt, op=node.id)
        spec = function_spec(signature)
        call = Call(
            spec=spec,
            function=self._functions.find(spec),
            file=None,
            columns={p: columns[f] for p, f in bound.items()},
            absent=absent,
            params=self._hypers(node, signature, per_prompt),
            outputs=[(name, self._module.fields[name].type) for name in node.outputs],
            per_prompt=per_prompt,
            batch=self._batches[self._module.fields[node.call.args[0].name].prompts],
            reduce=self._comm.all_reduce if signature.reduces else None,
            status=self._comm.status,
        )
        self._put(call.run())
        # Tokens that a function made of others are still those of the rollout.
        read, written = ([f for f in names if self._ragged(f)] for names in (bound.values(), node.outputs))
        known = [self._temperatures[f] for f in read if f in self._temperatures]
        self._temperatures |= dict.fromkeys(written, known[0]) if known else {}

    def _ragged(self, name: str) -> bool:
        return self._module.fields[name].type.ragged

    def _train(self, node: ir.Node) -> None:
        assert node.call.function is not None
        signature = self._module.signatures[node.call.function]
        rows, tokens, mask = self._sequences(node)
        bound, absent = self._arguments(node.call.args[2:])
        columns = self._buffer.aligned(list(bound.values()), per_prompt=rows.per_prompt, op=node.id)
        op = self._train_op(node, signature, bound, absent, rows.per_prompt)
        batch = TrainBatch(
            tokens=tokens,
            response_mask=mask,
            args={**dict.fromkeys(absent), **{p: columns[f].data for p, f in bound.items()}},
            prompt_index=rows.prompt_ids % op.batch,
            num_prompts=op.batch,
        )
        made = self._model(node).train(op, batch, self._functions.find(function_spec(signature)))
        self._metrics |= {f"{node.id}/{name}": value for name, value in made.items()}

    def _train_op(
        self, node: ir.Node, signature: Signature, bound: Mapping[str, str], absent: Sequence[str], per_prompt: int
    ) -> TrainOp:
        options = self._options(node)

        def number(name: str) -> float:
            return _number(options[name])

        batch = self._batches[self._module.fields[node.call.args[0].name].prompts]
        args = [Arg(param=p, field=f) for p, f in bound.items()] + [Arg(param=p) for p in absent]
        return TrainOp(
            id=node.id,
            model=str(node.call.model),
            tokens=node.call.args[0].name,
            response_mask=node.call.args[1].name,
            loss=signature.name,
            args=tuple(args),
            params=self._hypers(node, signature, per_prompt),
            aggregate=Aggregate(str(options["aggregate"])),
            lr=number("lr"),
            weight_decay=number("weight_decay"),
            beta1=number("beta1"),
            beta2=number("beta2"),
            max_grad_norm=number("max_grad_norm"),
            epochs=int(number("epochs")),
            batch=batch,
            minibatch=int(number("minibatch")) if options["minibatch"] is not None else batch,
            micro_batch_tokens=int(number("micro_batch_tokens")),
            temperature=self._temperature(node),
        )

    def _arguments(self, args: Sequence[ir.FieldArg]) -> tuple[dict[str, str], list[str]]:
        """Parameter to field, and the parameters whose field's producer did not run."""
        there = self._buffer.all()
        bound = {a.param or a.name: a.name for a in args if a.name in there}
        return bound, [a.param or a.name for a in args if a.name not in there]

    def _options(self, node: ir.Node) -> dict[str, Scalar]:
        """The method's settings: defaults, then what the node says."""
        assert node.call.method is not None
        spec = METHODS[node.call.method]
        return {s.name: s.default for s in (*spec.keywords, *spec.options)} | self._given(node)

    def _given(self, node: ir.Node) -> dict[str, Scalar]:
        return {k.name: evaluate(k.value, self._module.values) for k in (*node.call.keywords, *node.call.options)}

    def _hypers(self, node: ir.Node, signature: Signature, per_prompt: int) -> dict[str, Scalar]:
        """Of the function's hyper-parameters those that are given; `group` is known without."""
        names = {h.name for h in signature.hypers}
        known: dict[str, Scalar] = {"group": per_prompt} if "group" in names else {}
        return known | {name: value for name, value in self._given(node).items() if name in names}

    def _temperature(self, node: ir.Node) -> float:
        """As stated, else that of the rollout that made the tokens; greedy tokens are judged at 1."""
        stated = self._given(node).get("temperature")
        return _number(stated or self._temperatures.get(node.call.args[0].name) or 1.0)

    def _integer(self, expr: Expr) -> int:
        return int(_number(evaluate(expr, self._module.values)))

    def _load_op(self, item: ir.Input) -> LoadOp:
        """Inputs that an unrolled loop made of one statement take turns at one stream."""
        names = tuple(n.rpartition(".")[2] for n in item.names)
        block = self._graph.block_of.get(item.block or "")
        return LoadOp(
            id="load",
            source=data_source(item),
            columns=item.names,
            names=names,
            batch=self._integer(item.batch),
            stream=f"{item.block} {names}",
            round=max(item.round - 1, 0),
            rounds=self._integer(block.bound) if block is not None and item.round else 1,
            first=block is not None and block.kind is ir.BlockKind.VALIDATE,
        )


def _batches(module: ir.Module) -> Iterator[tuple[str | None, int]]:
    """Prompts of each set of them, by its name as `FieldInfo.prompts` has it."""
    read = {i.block: int(_number(evaluate(i.batch, module.values))) for i in module.graph.inputs}
    yield from read.items()
    for block in module.graph.blocks:
        if block.where is not None:
            until = read[block.id] if block.until is None else int(_number(evaluate(block.until, module.values)))
            yield f"{block.id}.kept", until


_REDUCE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": Tensor.mean,
    "std": lambda numbers: numbers.std(correction=0),
    "min": Tensor.min,
    "max": Tensor.max,
    "sum": Tensor.sum,
}


def _stream(op: LoadOp) -> str:
    return op.stream


def _flat(data: Data) -> Tensor:
    assert not isinstance(data, list), "a text has no mean"
    return data.values if isinstance(data, Ragged) else data


def _number(value: Any) -> float:
    assert isinstance(value, (int, float)), f"{value!r} is no number"
    return float(value)
