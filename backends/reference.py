"""A reference interpreter: runs the typed graph as it was written, node by node, in one process.

It knows no passes: every condition is looked at when its node is reached, every node that is there runs, old
log-probs are always computed, no row is skipped, nothing is freed. An optimised plan must give what this gives.
Models, sampling and functions are the engine's own, on one rank, so that a difference is a pass's doing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx

from rldsl.backends.comm import Comm
from rldsl.backends.data.batch import Column, Data, Ragged
from rldsl.backends.data.buffer import Buffer
from rldsl.backends.data.loader import Loader
from rldsl.backends.engines.generate import Sampler
from rldsl.backends.engines.model import Model
from rldsl.backends.engines.train import TrainBatch
from rldsl.backends.functions import Call, Functions
from rldsl.compiler import ir
from rldsl.compiler.expr import evaluate
from rldsl.compiler.methods import METHODS
from rldsl.compiler.plan import (
    Aggregate,
    Arg,
    GenerateOp,
    LoadOp,
    Scalar,
    TrainOp,
)
from rldsl.compiler.signature import Signature
from rldsl.compiler.specs import data_source, function_spec, model_spec


@dataclass(frozen=True, kw_only=True)
class Step:
    """All fields that a step made, and what training reported as `<node>/<name>`."""

    fields: Mapping[str, Column]
    metrics: Mapping[str, float]


class Reference:
    """Interprets `module`, which has passed the checks: names resolved, fields typed, parameters bound.

    Paths of data and function files are relative to `source_dir`. Raises what engines, data and functions raise.
    """

    def __init__(self, module: ir.Module, *, source_dir: Path) -> None:
        self._module, self._graph, self._comm = module, module.graph, Comm.alone()
        self._buffer, self._metrics, self._step = Buffer(), dict[str, float](), -1
        self._functions = Functions(source_dir)
        self._batch = int(_number(evaluate(self._graph.inputs[0].batch, module.values)))
        seed = module.values.get("seed", 0)
        self._seed = seed if isinstance(seed, int) else 0
        types = {name: info.type for name, info in module.fields.items()}
        self._loaders = [
            Loader(self._load_op(item), types, rank=0, size=1, seed=self._seed, source_dir=source_dir)
            for item in self._graph.inputs
        ]
        specs = [model_spec(m, module) for m in self._graph.models]
        self._models = {s.name: Model.load(s, comm=self._comm, seed=self._seed) for s in specs}

    def step(self) -> Step:
        """Run the next step."""
        self._step += 1
        self._comm.status.enter(step=self._step, op="reference", node=None)
        self._buffer, self._metrics = Buffer(), {}
        for loader in self._loaders:
            self._put(loader.next(self._step))
        position = {n.id: i for i, n in enumerate(self._graph.nodes)}
        for name in nx.lexicographical_topological_sort(self._graph.dag(), key=position.__getitem__):
            self._run(self._graph.node_of[name])
        return Step(fields=self._buffer.all(), metrics=self._metrics)

    def _put(self, columns: Mapping[str, Column]) -> None:
        for name, column in columns.items():
            self._buffer.put(name, column)

    def _run(self, node: ir.Node) -> None:
        if node.when is not None and not evaluate(node.when, self._module.values):
            return
        run: dict[ir.Method | None, Callable[[ir.Node], None]] = {
            None: self._compute,
            ir.Method.GENERATE: self._generate,
            ir.Method.LOGPROB: self._logprob,
            ir.Method.VALUE: self._value,
            ir.Method.TRAIN: self._train,
        }
        run[node.call.method](node)

    def _model(self, node: ir.Node) -> Model:
        assert node.call.model is not None
        return self._models[node.call.model]

    def _generate(self, node: ir.Node) -> None:
        options = self._options(node)
        op = GenerateOp(
            id=node.id,
            model=str(node.call.model),
            prompts=node.call.args[0].name,
            n=int(_number(options["n"])),
            max_new_tokens=int(_number(options["max_new_tokens"])),
            temperature=_number(options["temperature"]),
            top_p=_number(options["top_p"]),
            top_k=int(_number(options["top_k"])),
            outputs={},
        )
        prompts = self._buffer.get(op.prompts, op=node.id)
        assert isinstance(prompts.data, list)
        sampler = Sampler(self._model(node), seed=self._seed)
        made = sampler.generate(prompts.data, prompts.ids, op, step=self._step)
        results: tuple[Data, ...] = (made.tokens, made.response_mask, made.rollout_logp, made.completions)
        self._put({n: Column(made.ids, r, op.n) for n, r in zip(node.outputs, results, strict=False)})

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
            outputs=list(zip(node.outputs, signature.outputs, strict=True)),
            per_prompt=per_prompt,
            reduce=self._comm.all_reduce if signature.reduces else None,
            status=self._comm.status,
        )
        self._put(call.run())

    def _train(self, node: ir.Node) -> None:
        assert node.call.function is not None
        signature = self._module.signatures[node.call.function]
        rows, tokens, mask = self._sequences(node)
        bound, absent = self._arguments(node.call.args[2:])
        columns = self._buffer.aligned(list(bound.values()), per_prompt=rows.per_prompt, op=node.id)
        batch = TrainBatch(
            tokens=tokens,
            response_mask=mask,
            args={**dict.fromkeys(absent), **{p: columns[f].data for p, f in bound.items()}},
            prompt_index=rows.prompt_ids % self._batch,
            num_prompts=self._batch,
        )
        op = self._train_op(node, signature, bound, absent, rows.per_prompt)
        made = self._model(node).train(op, batch, self._functions.find(function_spec(signature)))
        self._metrics |= {f"{node.id}/{name}": value for name, value in made.items()}

    def _train_op(
        self, node: ir.Node, signature: Signature, bound: Mapping[str, str], absent: Sequence[str], per_prompt: int
    ) -> TrainOp:
        options = self._options(node)

        def number(name: str) -> float:
            return _number(options[name])

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
            minibatch=int(number("minibatch")) if options["minibatch"] is not None else self._batch,
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
        lineage = self._module.fields[node.call.args[0].name].lineage
        if stated is None and lineage is not None:
            stated = self._options(self._graph.node_of[lineage])["temperature"]
        return _number(stated or 1.0)

    def _load_op(self, item: ir.Input) -> LoadOp:
        return LoadOp(id="load", source=data_source(item), columns=item.names, batch=self._batch)


def _number(value: Any) -> float:
    assert isinstance(value, (int, float)), f"{value!r} is no number"
    return float(value)
