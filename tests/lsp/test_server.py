"""A session over stdio with a client of pygls: every feature, and texts that no one meant to write."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from lsprotocol import types as lsp
from pygls.lsp.client import LanguageClient

from rldsl.cli import main
from tests.lsp.conftest import MAIN, at

WAIT_S = 30.0


class Editor:
    """One document, open in a client of ours, and what the server published about each."""

    def __init__(self, folder: Path) -> None:
        self.client, self.path, self.version = LanguageClient("test", "0"), folder / "main.rl", 0
        self.published: asyncio.Queue[lsp.PublishDiagnosticsParams] = asyncio.Queue()
        self.text = MAIN

    @property
    def uri(self) -> str:
        return self.path.as_uri()

    @property
    def document(self) -> lsp.TextDocumentIdentifier:
        return lsp.TextDocumentIdentifier(self.uri)

    async def start(self) -> lsp.InitializeResult:
        @self.client.feature(lsp.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        def published(params: lsp.PublishDiagnosticsParams) -> None:
            self.published.put_nowait(params)

        await self.client.start_io(sys.executable, "-m", "rldsl", "lsp", "--stdio", cwd=self.path.parent)
        result = await self.client.initialize_async(lsp.InitializeParams(lsp.ClientCapabilities()))
        self.client.initialized(lsp.InitializedParams())
        return result

    async def stop(self) -> int:
        await self.client.shutdown_async(None)
        self.client.exit(None)
        server = self.client._server
        assert server is not None
        code = await asyncio.wait_for(server.wait(), WAIT_S)
        await self.client.stop()
        return code

    async def opened(self, text: str = MAIN) -> list[lsp.Diagnostic]:
        self.text = text
        item = lsp.TextDocumentItem(self.uri, "rl", self.version, text)
        self.client.text_document_did_open(lsp.DidOpenTextDocumentParams(item))
        return await self.diagnostics()

    def type(self, text: str) -> None:
        self.text, self.version = text, self.version + 1
        change = lsp.TextDocumentContentChangeWholeDocument(text)
        document = lsp.VersionedTextDocumentIdentifier(self.version, self.uri)
        self.client.text_document_did_change(lsp.DidChangeTextDocumentParams(document, [change]))

    async def diagnostics(self) -> list[lsp.Diagnostic]:
        return list((await asyncio.wait_for(self.published.get(), WAIT_S)).diagnostics)

    def position(self, needle: str) -> lsp.Position:
        before = self.text[: at(needle, self.text)]
        return lsp.Position(before.count("\n"), len(before.rpartition("\n")[2].encode("utf-16-le")) // 2)

    def at(self, needle: str) -> tuple[lsp.TextDocumentIdentifier, lsp.Position]:
        return self.document, self.position(needle)

    def part(self, where: lsp.Range) -> str:
        assert where.start.line == where.end.line
        line = self.text.split("\n")[where.start.line].encode("utf-16-le")
        return line[2 * where.start.character : 2 * where.end.character].decode("utf-16-le")


@asynccontextmanager
async def editor(folder: Path) -> AsyncIterator[Editor]:
    one = Editor(folder)
    await one.start()
    try:
        yield one
    finally:
        assert await one.stop() == 0


def test_what_the_server_offers(folder: Path):
    async def session() -> None:
        one = Editor(folder)
        offers = (await one.start()).capabilities
        assert offers.hover_provider and offers.definition_provider and offers.references_provider
        assert offers.document_symbol_provider and offers.document_formatting_provider
        assert offers.completion_provider and "." in (offers.completion_provider.trigger_characters or ())
        assert offers.code_action_provider
        assert await one.stop() == 0

    asyncio.run(session())


def test_diagnostics_as_you_type(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            assert await one.opened() == []
            for typed in ("sco", "scor", "scorr"):
                one.type(MAIN.replace("mean(score)\n  output", f"mean({typed})\n  output"))
            (found,) = await one.diagnostics()
            assert one.published.empty(), "one text is compiled, the last"
            assert (found.code, found.source, found.severity) == ("RL0201", "rldsl", lsp.DiagnosticSeverity.Error)
            assert one.part(found.range) == "scorr" and "fix: did you mean `score`?" in found.message
            one.type(MAIN)
            assert await one.diagnostics() == []
            one.type(MAIN.replace("  metric brief   = mean(score)\n", "").replace("lr\n\n", 'lr\n  # "😀"\n\n'))
            assert await one.diagnostics() == []
            one.client.text_document_did_close(lsp.DidCloseTextDocumentParams(one.document))
            assert await one.diagnostics() == []

    asyncio.run(session())


def test_warnings_and_related_places(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            (found,) = await one.opened(
                MAIN.replace("  model reference", '  model judge : reward = hf("x")\n  model reference')
            )
            assert found.severity is lsp.DiagnosticSeverity.Warning
            one.type(
                MAIN.replace(
                    "  metric brief ", "  node short = compute brevity(completions) -> again\n  metric brief ", 1
                )
            )
            twice = next(d for d in await one.diagnostics() if d.code == "RL0205")
            assert twice.related_information and one.part(twice.related_information[0].location.range) == "short"
            assert twice.related_information[0].location.uri == one.uri

    asyncio.run(session())


def test_a_saved_file_that_the_document_uses(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            await one.opened()
            mine = folder / "mine.py"
            mine.write_text(mine.read_text().replace("def brevity", "def terseness"))
            one.client.text_document_did_save(lsp.DidSaveTextDocumentParams(one.document))
            assert [d.code for d in await one.diagnostics()] == ["RL0204"]

    asyncio.run(session())


def test_quick_fix(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            (found,) = await one.opened(MAIN.replace("compute calculator", "compute calculater"))
            context = lsp.CodeActionContext([found])
            actions = await one.client.text_document_code_action_async(
                lsp.CodeActionParams(one.document, found.range, context)
            )
            assert actions and isinstance(actions[0], lsp.CodeAction)
            assert actions[0].title == "Change to `calculator`" and actions[0].kind == lsp.CodeActionKind.QuickFix
            edit = actions[0].edit
            assert edit and edit.changes and one.part(edit.changes[one.uri][0].range) == "calculater"
            assert edit.changes[one.uri][0].new_text == "calculator"

    asyncio.run(session())


def test_hover_definition_and_references(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            await one.opened()
            hover = await one.client.text_document_hover_async(lsp.HoverParams(*one.at("mean(|score)\n  output")))
            assert hover and isinstance(hover.contents, lsp.MarkupContent) and hover.range
            assert "f32[sample]" in hover.contents.value and one.part(hover.range) == "score"
            assert await one.client.text_document_hover_async(lsp.HoverParams(*one.at("A com|ment"))) is None
            for needle, file in (
                ("compute brev|ity", "mine.py"),
                ("frozen act|or", "base.rl"),
                ("after sho|rt", "main.rl"),
            ):
                found = await one.client.text_document_definition_async(lsp.DefinitionParams(*one.at(needle)))
                assert isinstance(found, list) and len(found) == 1
                assert isinstance(found[0], lsp.Location) and found[0].uri.endswith(file)
            context = lsp.ReferenceContext(include_declaration=True)
            uses = await one.client.text_document_references_async(
                lsp.ReferenceParams(context=context, text_document=one.document, position=one.position("n = gro|up"))
            )
            assert uses and [u.uri.rpartition("/")[2] for u in uses] == ["main.rl", "base.rl"]

    asyncio.run(session())


def test_symbols(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            await one.opened()
            found = await one.client.text_document_document_symbol_async(lsp.DocumentSymbolParams(one.document))
            assert found and isinstance(found[0], lsp.DocumentSymbol)
            children = {c.name: c for c in found[0].children or ()}
            assert {"turns", "rollout", "talk", "test"} <= set(children)
            assert one.part(children["talk"].selection_range) == "talk"
            assert [c.name for c in children["talk"].children or ()] == ["tool", "act"]

    asyncio.run(session())


def test_completion_in_half_a_statement(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            await one.opened()
            one.type(MAIN.replace("  validate test", "  node x = actor.\n  validate test"))
            found = await one.client.text_document_completion_async(lsp.CompletionParams(*one.at("node x = actor.|")))
            assert isinstance(found, lsp.CompletionList)
            assert [i.label for i in found.items] == ["generate", "extend", "logprob", "train"]
            assert [d.code for d in await one.diagnostics()] == ["RL0102"]
            hover = await one.client.text_document_hover_async(lsp.HoverParams(*one.at("mean(|score)\n  output")))
            assert hover and "f32[sample]" in str(hover.contents), "what was known before the text broke"

    asyncio.run(session())


@pytest.mark.skipif(find_spec("rldsl.compiler.format") is None, reason="the formatter is not there yet")
def test_formatting(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            await one.opened(MAIN.replace("node short     =", "node    short="))
            options = lsp.FormattingOptions(tab_size=2, insert_spaces=True)
            edits = await one.client.text_document_formatting_async(lsp.DocumentFormattingParams(one.document, options))
            assert edits and len(edits) == 1 and "node short" in edits[0].new_text
            one.type("algorithm (")
            assert not await one.client.text_document_formatting_async(
                lsp.DocumentFormattingParams(one.document, options)
            )

    asyncio.run(session())


STRANGE = [
    "",
    "\x00",
    "}" * 50,
    "(" * 5000,
    '"',
    "algorithm a {" * 30,
    "é😀\u2028\r",
    MAIN[:-400],
    MAIN.replace("{", ""),
]


def test_no_text_ends_the_session(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            await one.opened()
            for text in STRANGE:
                one.type(text)
                await one.diagnostics()
                places = [lsp.Position(0, 0), lsp.Position(10**6, 10**6), lsp.Position(0, len(text) // 2)]
                for place in places:
                    await one.client.text_document_hover_async(lsp.HoverParams(one.document, place))
                    await one.client.text_document_definition_async(lsp.DefinitionParams(one.document, place))
                    await one.client.text_document_completion_async(lsp.CompletionParams(one.document, place))
                await one.client.text_document_document_symbol_async(lsp.DocumentSymbolParams(one.document))
            one.type(MAIN)
            assert await one.diagnostics() == []

    asyncio.run(session())


def test_a_document_that_no_one_opened_costs_only_the_answer(folder: Path):
    async def session() -> None:
        async with editor(folder) as one:
            other = lsp.TextDocumentIdentifier("file:///nowhere.rl")
            assert await one.client.text_document_hover_async(lsp.HoverParams(other, lsp.Position(0, 0))) is None
            assert await one.opened() == []

    asyncio.run(session())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    real = find_spec
    monkeypatch.setattr(
        "rldsl.backends.engines.find_spec", lambda name, *rest: None if name == "pygls" else real(name, *rest)
    )
    assert main(["lsp"]) == 1
    assert "pip install 'rldsl[lsp]'" in capsys.readouterr().err


def test_it_needs_nothing_heavy(folder: Path):
    code = "import sys, rldsl.lsp.server; print(sorted({'torch', 'numpy', 'transformers', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    assert done.stdout.strip() == "[]"
