"""The protocol: an editor's requests in, answers of the other modules out, on standard input and output."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

from lsprotocol import types as lsp
from pygls.lsp.server import LanguageServer
from pygls.uris import from_fs_path, to_fs_path

from rldsl.diagnostics import DiagnosticError, Severity
from rldsl.lsp.complete import Item, complete
from rldsl.lsp.facts import hover
from rldsl.lsp.outline import Entry, outline
from rldsl.lsp.problems import Problem, problems
from rldsl.lsp.scan import Kind
from rldsl.lsp.text import Place, Text
from rldsl.lsp.view import Analysis, View, analyse

_log = logging.getLogger(__name__)
_F = TypeVar("_F", bound=Callable[..., Any])

PAUSE_S = 0.15
"""How long nothing must be typed before the text is compiled."""

_SEVERITY = {Severity.ERROR: lsp.DiagnosticSeverity.Error, Severity.WARNING: lsp.DiagnosticSeverity.Warning}
_SYMBOLS = {
    Kind.ALGORITHM: lsp.SymbolKind.Module,
    Kind.PARAM: lsp.SymbolKind.Constant,
    Kind.MODEL: lsp.SymbolKind.Object,
    Kind.NODE: lsp.SymbolKind.Function,
    Kind.METRIC: lsp.SymbolKind.Number,
    Kind.OUTPUT: lsp.SymbolKind.File,
    Kind.FIELD: lsp.SymbolKind.Field,
    Kind.BLOCK: lsp.SymbolKind.Namespace,
}
_COMPLETIONS = {
    "keyword": lsp.CompletionItemKind.Keyword,
    "enum": lsp.CompletionItemKind.EnumMember,
    "model": lsp.CompletionItemKind.Class,
    "method": lsp.CompletionItemKind.Method,
    "function": lsp.CompletionItemKind.Function,
    "field": lsp.CompletionItemKind.Field,
    "setting": lsp.CompletionItemKind.Property,
    "param": lsp.CompletionItemKind.Variable,
    "node": lsp.CompletionItemKind.Event,
    "source": lsp.CompletionItemKind.Constructor,
    "file": lsp.CompletionItemKind.File,
}


@dataclass(kw_only=True)
class _Document:
    """An open document. `problems` are those of the text that was compiled last; `waiting` compiles the next."""

    uri: str
    path: Path
    view: View
    problems: list[Problem] = field(default_factory=list)
    waiting: asyncio.Task[None] | None = None

    @property
    def text(self) -> Text:
        return self.view.source.text


class Server(LanguageServer):
    """A language server for `.rl` files and the documents that an editor has open."""

    def __init__(self) -> None:
        # Whole texts: these files are short, and lines are then counted in one place only, ours.
        super().__init__("rldsl", version("rldsl"), text_document_sync_kind=lsp.TextDocumentSyncKind.Full)
        self.documents: dict[str, _Document] = {}

    @property
    def encoding(self) -> str:
        """The units of characters that the editor counts in."""
        return str(getattr(self.workspace.position_encoding, "value", self.workspace.position_encoding) or "utf-16")

    def offset(self, document: _Document, position: lsp.Position) -> int:
        """Where an editor's position is in the text."""
        return document.text.at(position.line, position.character, self.encoding)

    def range(self, text: Text, start: int, end: int) -> lsp.Range:
        """A stretch as an editor has it."""
        ends = (text.position(offset, self.encoding) for offset in (start, end))
        return lsp.Range(*(lsp.Position(line, character) for line, character in ends))

    def location(self, place: Place) -> lsp.Location:
        """A place as an editor has it; a document that is open keeps the name that the editor gave it."""
        path = place.text.path
        uri = next((d.uri for d in self.documents.values() if d.path == path), None)
        return lsp.Location(
            uri or from_fs_path(str(path.absolute())) or "", self.range(place.text, place.start, place.end)
        )

    def update(self, uri: str, text: str, pause_s: float) -> None:
        """Take over a text; names are known at once, what the compiler says of it after a pause."""
        known = self.documents.get(uri)
        path = known.path if known else _path(uri)
        document = known or _Document(uri=uri, path=path, view=View.of(path, text))
        document.view = View.of(path, text, document.view.module)
        self.documents[uri] = document
        self.schedule(document, pause_s)

    def schedule(self, document: _Document, pause_s: float) -> None:
        """Compile a document's text after a pause; what was to be compiled before is not."""
        if document.waiting:
            document.waiting.cancel()
        document.waiting = asyncio.get_running_loop().create_task(self._compile(document, pause_s))

    async def _compile(self, document: _Document, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        view = document.view
        try:
            # In a thread, so that a long text does not keep other requests waiting.
            analysis = await asyncio.to_thread(analyse, document.path, view.source.text.text)
            if document.view is view:
                self._publish(document, analysis)
        except Exception:
            _log.exception("%s could not be analysed", document.path)

    def _publish(self, document: _Document, analysis: Analysis) -> None:
        if analysis.module is not None:
            document.view = replace(document.view, module=analysis.module)
        document.problems = problems(document.view.source, analysis.diagnostics)
        found = [self.diagnostic(p) for p in document.problems]
        self.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(document.uri, found))

    def diagnostic(self, problem: Problem) -> lsp.Diagnostic:
        """A problem as an editor has it."""
        related = [lsp.DiagnosticRelatedInformation(self.location(p), message) for p, message in problem.related]
        place = problem.place
        return lsp.Diagnostic(
            range=self.range(place.text, place.start, place.end),
            message=problem.message,
            severity=_SEVERITY[problem.severity],
            code=problem.code,
            source="rldsl",
            related_information=related or None,
        )


def _path(uri: str) -> Path:
    """The file of a document. Also one without a file, or of another suffix, is taken for the language's: never run."""
    path = Path(to_fs_path(uri) or "untitled.rl").absolute()
    return path if path.suffix == ".rl" else path.with_name(f"{path.name}.rl")


def _guarded(handler: _F) -> _F:
    """An error of ours costs one answer, never the session."""

    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except Exception:
            _log.exception("%s failed", handler.__name__)
            return None

    return cast(_F, wrapped)  # functools.wraps keeps the signature


@_guarded
def _opened(ls: Server, params: lsp.DidOpenTextDocumentParams) -> None:
    ls.update(params.text_document.uri, params.text_document.text, 0.0)


@_guarded
def _changed(ls: Server, params: lsp.DidChangeTextDocumentParams) -> None:
    uri = params.text_document.uri
    ls.update(uri, ls.workspace.get_text_document(uri).source, PAUSE_S)


@_guarded
def _saved(ls: Server, params: lsp.DidSaveTextDocumentParams) -> None:
    """Another document may use the file: all are read again."""
    for document in ls.documents.values():
        ls.update(document.uri, document.text.text, 0.0)


@_guarded
def _closed(ls: Server, params: lsp.DidCloseTextDocumentParams) -> None:
    document = ls.documents.pop(params.text_document.uri, None)
    if document and document.waiting:
        document.waiting.cancel()
    ls.text_document_publish_diagnostics(lsp.PublishDiagnosticsParams(params.text_document.uri, []))


@_guarded
def _hover(ls: Server, params: lsp.HoverParams) -> lsp.Hover | None:
    document = ls.documents[params.text_document.uri]
    found = hover(document.view, ls.offset(document, params.position))
    if found is None:
        return None
    words, place = found
    content = lsp.MarkupContent(lsp.MarkupKind.Markdown, words)
    return lsp.Hover(content, ls.range(place.text, place.start, place.end))


@_guarded
def _definition(ls: Server, params: lsp.DefinitionParams) -> list[lsp.Location] | None:
    document = ls.documents[params.text_document.uri]
    occurrence = document.view.source.scan.at(ls.offset(document, params.position))
    return [ls.location(p) for p in document.view.definitions(occurrence)] if occurrence else None


@_guarded
def _references(ls: Server, params: lsp.ReferenceParams) -> list[lsp.Location] | None:
    document = ls.documents[params.text_document.uri]
    occurrence = document.view.source.scan.at(ls.offset(document, params.position))
    if occurrence is None:
        return None
    places = document.view.references(occurrence, declaration=params.context.include_declaration)
    return [ls.location(p) for p in places]


@_guarded
def _symbols(ls: Server, params: lsp.DocumentSymbolParams) -> list[lsp.DocumentSymbol]:
    document = ls.documents[params.text_document.uri]

    def shown(entry: Entry) -> lsp.DocumentSymbol:
        return lsp.DocumentSymbol(
            name=entry.name,
            kind=_SYMBOLS[entry.kind],
            range=ls.range(document.text, entry.start, entry.end),
            selection_range=ls.range(document.text, entry.name_start, entry.name_end),
            detail=entry.detail or None,
            children=[shown(c) for c in entry.children] or None,
        )

    return [shown(e) for e in outline(document.view.source)]


@_guarded
def _completion(ls: Server, params: lsp.CompletionParams) -> lsp.CompletionList | None:
    document = ls.documents[params.text_document.uri]
    items = complete(document.view, ls.offset(document, params.position))
    return lsp.CompletionList(is_incomplete=False, items=[_item(i) for i in items])


def _item(item: Item) -> lsp.CompletionItem:
    words = lsp.MarkupContent(lsp.MarkupKind.Markdown, item.documentation) if item.documentation else None
    return lsp.CompletionItem(
        label=item.label,
        kind=_COMPLETIONS[item.kind],
        detail=item.detail or None,
        documentation=words,
        sort_text=f"{item.rank}{item.label}",
    )


@_guarded
def _formatting(ls: Server, params: lsp.DocumentFormattingParams) -> list[lsp.TextEdit] | None:
    document = ls.documents[params.text_document.uri]
    text = document.text
    try:
        formatted = import_module("rldsl.compiler.format").format_text(text.text, str(document.path))
    except DiagnosticError:
        return None  # a text that does not parse has no canonical form; its error is shown already
    if formatted == text.text:
        return []
    return [lsp.TextEdit(ls.range(text, 0, len(text.text)), formatted)]


@_guarded
def _actions(ls: Server, params: lsp.CodeActionParams) -> list[lsp.CodeAction]:
    document = ls.documents[params.text_document.uri]
    start, end = (ls.offset(document, p) for p in (params.range.start, params.range.end))
    return [
        _action(ls, document, problem)
        for problem in document.problems
        if problem.edit
        and problem.place.text == document.text  # else it is about a text that has changed since
        and problem.place.start <= end
        and start <= problem.place.end
    ]


def _action(ls: Server, document: _Document, problem: Problem) -> lsp.CodeAction:
    assert problem.edit is not None
    edit = lsp.TextEdit(ls.range(document.text, problem.edit.start, problem.edit.end), problem.edit.text)
    return lsp.CodeAction(
        title=f"Change to `{problem.edit.text}`",
        kind=lsp.CodeActionKind.QuickFix,
        diagnostics=[ls.diagnostic(problem)],
        edit=lsp.WorkspaceEdit(changes={document.uri: [edit]}),
        is_preferred=True,
    )


def make_server() -> Server:
    """A server that answers everything, not yet running."""
    server = Server()
    features: tuple[tuple[str, Callable[..., Any], Any], ...] = (
        (lsp.TEXT_DOCUMENT_DID_OPEN, _opened, None),
        (lsp.TEXT_DOCUMENT_DID_CHANGE, _changed, None),
        (lsp.TEXT_DOCUMENT_DID_SAVE, _saved, None),
        (lsp.TEXT_DOCUMENT_DID_CLOSE, _closed, None),
        (lsp.TEXT_DOCUMENT_HOVER, _hover, None),
        (lsp.TEXT_DOCUMENT_DEFINITION, _definition, None),
        (lsp.TEXT_DOCUMENT_REFERENCES, _references, None),
        (lsp.TEXT_DOCUMENT_DOCUMENT_SYMBOL, _symbols, None),
        (lsp.TEXT_DOCUMENT_FORMATTING, _formatting, None),
        (
            lsp.TEXT_DOCUMENT_COMPLETION,
            _completion,
            lsp.CompletionOptions(trigger_characters=[".", "(", ",", ";", ">", '"']),
        ),
        (
            lsp.TEXT_DOCUMENT_CODE_ACTION,
            _actions,
            lsp.CodeActionOptions(code_action_kinds=[lsp.CodeActionKind.QuickFix]),
        ),
    )
    for name, handler, options in features:
        server.feature(name, options)(handler)
    return server


def serve() -> None:
    """Answer on standard input and output until the editor says to end. What goes wrong is logged to stderr."""
    logging.basicConfig(level=logging.WARNING)
    # Of our own, because pygls closes them; and what is printed by mistake must not come between the answers.
    with (
        os.fdopen(os.dup(sys.stdin.fileno()), "rb") as requests,
        os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers,
        redirect_stdout(sys.stderr),
    ):
        make_server().start_io(requests, answers)
