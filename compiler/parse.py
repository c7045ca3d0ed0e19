"""`.rl` text to the IR."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

from lark import Token, Tree

from rldsl.compiler.expr import Binary, Expr, Literal, ParamRef, Unary, negate, unfit
from rldsl.compiler.ir import (
    BUILT_IN,
    Block,
    BlockKind,
    Call,
    Deploy,
    FieldArg,
    Graph,
    Import,
    Input,
    Keyword,
    Method,
    Model,
    ModelKind,
    Node,
    Param,
    ParamType,
    PhaseLayout,
    Place,
    Range,
    SourceCall,
    Use,
    changed,
)
from rldsl.compiler.ops import Reduction, Scalar
from rldsl.compiler.syntax_errors import parse_tree
from rldsl.diagnostics import DiagnosticError, Diagnostics, Span, did_you_mean, fail
from rldsl.types import PROMPT, DType, FieldType, NodeType

_DEEPEST = 200
_LONGEST_NUMBER = 100
_OF_MODELS = tuple(m.value for m in Method if m not in BUILT_IN)
_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")
_Tree = Tree[Token]
# What there are most of is made from these: it takes a fifth of the time that setting each field by itself does.
_CALL, _FIELD = Call(), FieldArg(name="")
_NODE, _KEYWORD = Node(id="", call=_CALL), Keyword(name="", value=Literal(value=None))


def parse(text: str, file: str, found: Diagnostics | None = None) -> Graph:
    """The graph that `text` describes; `file` is the name that spans carry.

    With `found` every error is added to it, and the graph is of the statements without errors; those names that the
    others mention are poisoned. Without, DiagnosticError is raised: RL0102 for syntax errors, RL0210 and others.
    """
    noted = found if found is not None else Diagnostics()
    tree, poisoned = parse_tree(text, file, noted)
    graph = _Builder(file, noted, set(poisoned)).whole(tree)
    if found is None:
        noted.raise_if_errors()
    return graph


class _Builder:
    """Walks the syntax tree; collects what it cannot make sense of, and the names that are then unknown."""

    def __init__(self, file: str, found: Diagnostics, poisoned: set[str]) -> None:
        self.file, self.found, self.poisoned = file, found, poisoned

    def whole(self, tree: _Tree) -> Graph:
        """The graph, with the names of all statements that are not in it."""
        return replace(self.graph(tree), poisoned=frozenset(self.poisoned))

    def made(self, build: Callable[[_Tree], _T | None], tree: _Tree) -> Iterator[_T]:
        """What `build` makes of a statement; where it fails, that is noted and the statement's names are poisoned."""
        try:
            item = build(tree)
        except DiagnosticError as error:
            item = None
            for diagnostic in error.diagnostics:
                self.found.add(diagnostic)
        if item is not None:
            yield item
        else:
            # Not `scan_values`, which recurses: the statement may be what is nested too deeply.
            self.poisoned |= {str(t) for part in tree.iter_subtrees() for t in _tokens(part) if t.type == "NAME"}

    def graph(self, tree: _Tree) -> Graph:
        algorithms = list(_subtrees(tree, "algorithm"))
        uses = self.all(self.use, tree, "use")
        imports = self.all(self.imported, tree, "import")
        deploys = list(_subtrees(tree, "deploy"))
        for extra in [*algorithms[1:], *deploys[1:]]:
            self.found.error("RL0205", f"a file holds one `{extra.data}` block; this is another", span=self.span(extra))
        deploy = next((d for t in deploys[:1] for d in self.made(self.deploy, t)), None)
        if not algorithms:
            return Graph(name="", uses=uses, imports=imports, deploy=deploy)
        body = algorithms[0]
        return Graph(
            name=str(_tokens(body)[0]),
            params=self.all(self.param, body, "param"),
            models=self.all(self.model, body, "model"),
            inputs=self.inputs(body),
            nodes=self.nodes(body),
            blocks=self.all(self.block, body, "loop", "validate"),
            uses=uses,
            imports=imports,
            deploy=deploy,
            span=self.token_span(_tokens(body)[0]),
        )

    def all(self, build: Callable[[_Tree], _T | None], tree: _Tree, *kinds: str) -> tuple[_T, ...]:
        return tuple(item for t in _subtrees(tree, *kinds) for item in self.made(build, t))

    def use(self, tree: _Tree) -> Use:
        return Use(path=self.string(_tokens(tree)[0]), span=self.span(tree))

    def imported(self, tree: _Tree) -> Import:
        return Import(path=self.string(_tokens(tree)[0]), span=self.span(tree))

    def inputs(self, tree: _Tree) -> tuple[Input, ...]:
        return self.all(self.input, tree, "input")

    def nodes(self, tree: _Tree) -> tuple[Node, ...]:
        """Nodes, metrics and outputs, in source order."""
        kinds = {"node": self.node, "metric": self.metric, "output": self.output}
        return self.all(lambda t: kinds[t.data](t), tree, *kinds)

    def block(self, tree: _Tree) -> Block:
        name = _tokens(tree)[0]
        bound = next(c for c in tree.children if isinstance(c, Tree))
        carry, collect = list(_subtrees(tree, "carry")), list(_subtrees(tree, "collect"))
        return Block(
            id=str(name),
            kind=BlockKind(tree.data),
            bound=self.expr(bound),
            carry=self.fields(carry[0]) if carry else (),
            collect=self.fields(collect[0]) if collect else (),
            where=self.field_arg(_only(collect[0], "field")) if collect else None,
            until=next((self.expr(t.children[0]) for c in collect for t in _subtrees(c, "until")), None),
            inputs=self.inputs(tree),
            nodes=self.nodes(tree),
            span=self.token_span(name),
        )

    def span(self, tree: _Tree) -> Span:
        meta = tree.meta
        return Span(self.file, meta.line, meta.column, meta.end_line, meta.end_column)

    def token_span(self, token: Token) -> Span:
        assert token.line is not None and token.column is not None
        end_line, end_column = token.end_line or token.line, token.end_column or token.column + len(token)
        return Span(self.file, token.line, token.column, end_line, end_column)

    def one_of(
        self, kinds: type[_E], token: Token, what: str, code: str = "RL0210", names: Sequence[str] = ()
    ) -> _E | None:
        names = names or [k.value for k in kinds]
        if token in names:
            return kinds(str(token))
        self.found.error(
            code,
            f"unknown {what} `{token}`",
            span=self.token_span(token),
            expected=", ".join(names),
            found=str(token),
            fix=did_you_mean(token, names),
        )
        return None

    def param(self, tree: _Tree) -> Param | None:
        name, type_name = _tokens(tree)[:2]
        kind = self.one_of(ParamType, type_name, "type of a parameter")
        literal = self.constant(_only(tree, "constant"))
        if kind is None:
            return None
        default = literal.value
        if kind is ParamType.FLOAT and isinstance(default, int) and not isinstance(default, bool):
            default = float(default)
        return Param(
            name=str(name),
            type=kind,
            default=default,
            unit=literal.unit,
            range=next(map(self.range, _subtrees(tree, "range")), None),
            span=self.token_span(name),
        )

    def range(self, tree: _Tree) -> Range:
        for choices in _subtrees(tree, "choices"):
            return Range(choices=tuple(self.constant(c).value for c in _subtrees(choices, "constant")))
        interval = _only(tree, "interval")
        ends = [t.type for t in _tokens(interval)]
        return Range(
            low=self.end(interval, "low"),
            high=self.end(interval, "high"),
            low_open=ends[0] == "LPAR",
            high_open=ends[-1] == "RPAR",
        )

    def end(self, interval: _Tree, which: str) -> float | None:
        for tree in _subtrees(interval, which):
            *minus, number = _tokens(tree)
            return -float(self.number(number)) if minus else float(self.number(number))
        return None

    def constant(self, tree: _Tree) -> Literal:
        value = self.literal(next(c for c in tree.children if isinstance(c, Tree)))
        if any(t.type == "MINUS" for t in _tokens(tree)):
            assert isinstance(value.value, (int, float))
            return Literal(value=-value.value, unit=value.unit, span=self.span(tree))
        return value

    def model(self, tree: _Tree) -> Model | None:
        name, kind_name = _tokens(tree)[:2]
        kind = self.one_of(ModelKind, kind_name, "kind of model")
        frozen = any(t.type == "FROZEN" for t in _tokens(tree))
        copies, shared = list(_subtrees(tree, "copy")), list(_subtrees(tree, "shared"))
        sources = list(_subtrees(tree, "source"))
        if kind is None:
            return None
        return Model(
            name=str(name),
            kind=kind,
            source=self.source(sources[0]) if sources else None,
            copy_of=str(_tokens(copies[0])[-1]) if copies else None,
            shares=str(_tokens(shared[0])[-1]) if shared else None,
            frozen=frozen,
            options=self.keywords(_only(tree, "options")),
            span=self.token_span(name),
            origin_span=next((self.token_span(_tokens(t)[-1]) for t in (*copies, *shared)), None),
        )

    def source(self, tree: _Tree) -> SourceCall:
        args = tuple(self.expr(c) for c in tree.children if isinstance(c, Tree) and c.data != "keywords")
        return SourceCall(kind=str(_tokens(tree)[0]), args=args, keywords=self.keywords(tree), span=self.span(tree))

    def input(self, tree: _Tree) -> Input | None:
        names = tuple(str(t) for t in _tokens(_only(tree, "names")))
        kind = self.field_type(_only(tree, "type"))
        options = {k.name: k for k in self.keywords(_only(tree, "options"))}
        batch = options.pop("batch", None)
        for unknown in options.values():
            self.found.error("RL0207", f"an input has no option `{unknown.name}`", span=unknown.span, expected="batch")
        if batch is None:
            self.found.error(
                "RL0302",
                "an input does not say how many prompts a step takes",
                span=self.span(tree),
                fix="end the statement with `with batch = 16`",
            )
        if batch is None or kind is None:
            return None
        source = self.source(_only(tree, "source"))
        return Input(names=names, type=kind, source=source, batch=batch.value, span=self.span(_only(tree, "names")))

    def field_type(self, tree: _Tree) -> FieldType | None:
        words = [str(t) for t in _tokens(tree)]
        if words == [PROMPT]:
            return FieldType(DType.TEXT, (PROMPT,))
        text = f"{words[0]}[{', '.join(words[1:])}]" if words[1:] else words[0]
        try:
            return FieldType.parse(text)
        except ValueError as error:
            self.found.error(
                "RL0210",
                str(error),
                span=self.span(tree),
                expected="a type such as `text[prompt]`",
                found=text,
            )
            return None

    def node(self, tree: _Tree) -> Node | None:
        name = _tokens(tree)[0]
        parts: dict[str, _Tree] = {c.data: c for c in tree.children if isinstance(c, Tree)}
        call = next(
            self.call(parts[kind], parts["options"]) for kind in ("method", "train", "compute") if kind in parts
        )
        if call is None:
            return None
        role, kind = self.role(tree) if "role" in parts else (None, None)
        after = _tokens(_only(parts["order"], "names")) if "order" in parts else []
        return changed(
            _NODE,
            id=str(name),
            call=call,
            outputs=tuple(map(str, _tokens(_only(parts["outputs"], "names")))) if "outputs" in parts else (),
            role=role,
            stated_type=kind,
            when=self.expr(parts["condition"].children[0]) if "condition" in parts else None,
            after=tuple(map(str, after)),
            span=self.token_span(name),
            after_spans=tuple(map(self.token_span, after)),
        )

    def role(self, tree: _Tree) -> tuple[str | None, NodeType | None]:
        """What stands behind `:`, a role, a type of node, or both; a type is none of the names that a role may have."""
        words = next((_tokens(t) for t in _subtrees(tree, "role")), [])
        if len(words) == 1 and words[0] in list(NodeType):
            return None, NodeType(str(words[0]))
        kind = self.one_of(NodeType, words[1], "type of a node") if words[1:] else None
        return (str(words[0]) if words else None), kind

    def condition(self, tree: _Tree) -> Expr | None:
        return next((self.expr(t.children[0]) for t in _subtrees(tree, "condition")), None)

    def metric(self, tree: _Tree) -> Node | None:
        name, reduction = _tokens(tree)
        found = self.one_of(Reduction, reduction, "reduction of a metric")
        if found is None:
            return None
        arguments = _only(tree, "arguments")
        call = Call(
            method=Method.METRIC,
            function=found.value,
            args=self.fields(arguments, by_place=True),
            keywords=self.keywords(arguments),
            span=self.token_span(reduction),
        )
        return Node(id=str(name), call=call, when=self.condition(tree), span=self.token_span(name))

    def output(self, tree: _Tree) -> Node:
        name = _tokens(tree)[0]
        call = Call(
            method=Method.OUTPUT,
            args=self.fields(tree),
            options=self.keywords(_only(tree, "options")),
            span=self.token_span(name),
        )
        return Node(id=str(name), call=call, when=self.condition(tree), span=self.token_span(name))

    def fields(self, tree: _Tree, *, by_place: bool = False) -> tuple[FieldArg, ...]:
        found = (f for fs in _subtrees(tree, "fields") for f in _subtrees(fs, "field"))
        return tuple(self.field_arg(f, by_place=by_place) for f in found)

    def call(self, tree: _Tree, options: _Tree) -> Call | None:
        words = _tokens(tree)
        arguments = _only(tree, "arguments")
        args = self.fields(arguments)
        keywords, stated = self.keywords(arguments), self.keywords(options)
        span = self.token_span(words[0])
        if tree.data == "compute":
            return changed(_CALL, function=str(words[0]), args=args, keywords=keywords, options=stated, span=span)
        method = self.one_of(Method, words[1], "method of a model", "RL0206", _OF_MODELS)
        if method is None:
            return None
        function = str(words[2]) if tree.data == "train" else None
        return Call(
            model=str(words[0]),
            method=method,
            function=function,
            args=args,
            keywords=keywords,
            options=stated,
            span=span,
        )

    def field_arg(self, tree: _Tree, *, by_place: bool = False) -> FieldArg:
        """A field; the name of its parameter says nothing if it is its own, unless fields bind `by_place`."""
        words = _tokens(tree)
        names = [t for t in words if t.type == "NAME"]
        optional = len(names) < len(words)
        param = str(names[0]) if names[1:] and (by_place or names[0] != names[1]) else None
        return changed(_FIELD, name=str(names[-1]), optional=optional, param=param, span=self.span(tree))

    def keywords(self, tree: _Tree) -> tuple[Keyword, ...]:
        return tuple(self.keyword(k) for ks in _subtrees(tree, "keywords") for k in _subtrees(ks, "keyword"))

    def keyword(self, tree: _Tree) -> Keyword:
        name = _tokens(tree)[0]
        values = tree.children[1:]
        value: Expr = ParamRef(name=str(name), span=self.token_span(name))
        if values:
            value = self.expr(values[0])
        return changed(_KEYWORD, name=str(name), value=value, span=self.span(tree))

    def expr(self, tree: _Tree | Token, depth: int = 0) -> Expr:
        assert isinstance(tree, Tree)
        span = self.span(tree)
        if depth > _DEEPEST:
            fail("RL0102", "this expression is nested too deeply", span=span, fix="compute parts of it in Python")
        if tree.data in ("number", "word"):
            return self.literal(tree)
        if tree.data == "reference":
            return ParamRef(name=str(tree.children[0]), span=span)
        if tree.data == "unary":
            op, operand = str(tree.children[0]), self.expr(tree.children[1], depth + 1)
            return negate(operand, span) if op == "-" else Unary(op=op, operand=operand, span=span)
        left, operator, right = tree.children
        return Binary(op=str(operator), left=self.expr(left, depth + 1), right=self.expr(right, depth + 1), span=span)

    def string(self, token: Token) -> str:
        """The text between the quotes; RL0102 for an escape that is none, and for what no path may hold."""
        try:
            value = ast.literal_eval(str(token))
        except (SyntaxError, ValueError) as error:
            fail("RL0102", f"this is no string: {error.args[0]}", span=self.token_span(token))
        assert isinstance(value, str)
        if why := unfit(value):
            fail("RL0102", why, span=self.token_span(token))
        return value

    def number(self, token: Token) -> int | float:
        """The number written; RL0304 for one that no plan can hold."""
        digits = len(token) <= _LONGEST_NUMBER  # Python refuses to read whole numbers of thousands of digits
        value = (int if token.type == "INT" and digits else float)(token)
        if why := unfit(value):
            fail("RL0304", why, span=self.token_span(token))
        return value

    def literal(self, tree: _Tree) -> Literal:
        token, *unit = _tokens(tree)
        read: dict[str, Callable[[Token], Scalar]] = {"STRING": self.string, "INT": self.number, "FLOAT": self.number}
        value = _WORDS[token.type] if token.type in _WORDS else read[token.type](token)
        return Literal(value=value, unit=str(unit[0]) if unit else None, span=self.span(tree))

    def deploy(self, tree: _Tree) -> Deploy:
        cluster = next(_subtrees(tree, "cluster"), None)
        tokens = _tokens(cluster) if cluster else []
        count, kind = (int(self.number(tokens[0])), str(tokens[1])) if tokens else (None, None)
        figures = self.keywords(cluster) if cluster else ()
        layouts = tuple(self.layout(t) for t in _subtrees(tree, "layout"))
        places = tuple(self.place(t) for t in _subtrees(tree, "place"))
        return Deploy(count=count, cluster=kind, figures=figures, layouts=layouts, places=places, span=self.span(tree))

    def layout(self, tree: _Tree) -> PhaseLayout:
        model, phase, engine = _tokens(tree)[:3]
        return PhaseLayout(
            model=str(model),
            phase=str(phase),
            engine=str(engine),
            axes=self.keywords(tree),
            ranks=next((self.ranks(t) for t in _subtrees(tree, "on")), None),
            span=self.span(tree),
        )

    def place(self, tree: _Tree) -> Place:
        node = ".".join(map(str, _tokens(tree)))
        return Place(node=node, ranks=self.ranks(_only(tree, "on")), span=self.span(tree))

    def ranks(self, tree: _Tree) -> tuple[int, int]:
        """The first and the last; one alone is both."""
        first, *last = (int(self.number(t)) for t in _tokens(tree))
        return first, last[0] if last else first


_WORDS: dict[str, Scalar] = {"TRUE": True, "FALSE": False, "NONE": None}


def _subtrees(tree: _Tree, *names: str) -> Iterator[_Tree]:
    return iter([c for c in tree.children if isinstance(c, Tree) and c.data in names])


def _only(tree: _Tree, name: str) -> _Tree:
    return next(_subtrees(tree, name))


def _tokens(tree: _Tree) -> list[Token]:
    return [c for c in tree.children if isinstance(c, Token)]
