"""The language server: `rldsl lsp`.

`server` speaks the protocol and is the only module that needs pygls; the others are plain functions of a text, a
position in it and what the compiler knows of it.
"""
