"""Words for messages about syntax: how statements look, what terminals are called, what people write instead."""

from __future__ import annotations

from rldsl.compiler.lexemes import Lexeme

FORMS = {
    "use": 'a file of functions is named as `use "mine.py"`',
    "import": 'another file is named as `import "base.rl"`',
    "algorithm": "an algorithm is `algorithm NAME { ... }`",
    "param": "a parameter is `param NAME : TYPE = CONSTANT in RANGE`",
    "model": "a model is `model NAME : KIND = SOURCE with OPTIONS`",
    "input": "an input is `input NAMES : TYPE = SOURCE with batch = PROMPTS`",
    "node": "a node is `node NAME = CALL with OPTIONS -> OUTPUTS when CONDITION after NODES`",
    "metric": "a metric is `metric NAME = mean(FIELD, MASK) when CONDITION`",
    "output": "an output is `output NAME = FIELDS with every = STEPS`",
    "loop": "a loop is `loop NAME max N carry FIELDS { ... }` or `loop NAME max N collect FIELDS where FLAG { ... }`",
    "validate": "a validation is `validate NAME every STEPS { ... }`",
    "deploy": "a deployment is `deploy { ... }`",
    "cluster": "a cluster is `cluster COUNT x KIND(FIGURES)`, such as `cluster 8 x h100`",
    "layout": "a layout is `MODEL.PHASE : ENGINE(dp = N) on 0..3`, a node's place `NODE on 0..3`",
}
TERMINALS = {
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "EQUAL": "`=`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "SEMICOLON": "`;`",
    "DOT": "`.`",
    "OPTIONAL": "`?`",
    "__ANON_0": "`->`",
    "WITH": "`with`",
    "WHEN": "`when`",
    "AFTER": "`after`",
    "IN": "`in`",
    "MAX": "`max`",
    "EVERY": "`every`",
    "CARRY": "`carry`",
    "COLLECT": "`collect`",
    "WHERE": "`where`",
    "UNTIL": "`until`",
    "X": "`x`",
    "NAME": "a name",
    "STRING": "a string",
    "INT": "a number",
    "FLOAT": "a number",
    "UNIT": "a unit",
    "COMPARE": "an operator",
    "ADD": "an operator",
    "MULTIPLY": "an operator",
    "AND": "an operator",
    "OR": "an operator",
}
# The constants of other languages.
FOREIGN = {
    "True": "true", "False": "false", "None": "none", "null": "none", "nil": "none", "TRUE": "true", "FALSE": "false",
    "yes": "true", "no": "false", "on": "true", "off": "false",
}  # fmt: skip
_FUNCTION = 'write functions in a Python file beside this one, and name it: `use "mine.py"`'
_CONDITION = "a node runs on a condition: `node NAME = CALL -> OUTPUTS when CONDITION`"
_VARIABLE = "a constant is `param NAME : TYPE = CONSTANT`; a step is `node NAME = CALL -> OUTPUTS`"
PYTHON = {
    **dict.fromkeys(("def", "class", "lambda", "@", "return", "async", "fn", "func", "function"), _FUNCTION),
    **dict.fromkeys(("for", "while", "repeat"), FORMS["loop"]),
    **dict.fromkeys(("if", "elif", "else", "unless"), _CONDITION),
    **dict.fromkeys(("let", "const", "var", "set", "val"), _VARIABLE),
    "from": 'functions of a Python file come by `use "mine.py"`',
    "print": "`output NAME = FIELDS` writes rows, `metric NAME = mean(FIELD)` a number",
}
LOGIC = {
    "&&": "write `and`",
    "&": "write `and`",
    "||": "write `or`",
    "|": "write `or`",
    "!": "write `not`",
    "~": "write `not`",
    "**": "multiply by hand: there is no power",
    "^": "multiply by hand: there is no power",
}
QUOTES = frozenset("\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\u00ab\u00bb`")
# What keyboards, papers and word processors put in place of characters of the language.
SPELLING = {
    "\u2192": "->", "\u21d2": "->", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u00d7": "x", "\u00f7": "/",
    "\u2264": "<=", "\u2265": ">=", "\u2260": "!=", "\u2227": "and", "\u2228": "or", "\u00ac": "not", "\u00a0": " ",
    "\u2026": "...", "\uff1a": ":", "\uff0c": ",", "\uff1b": ";", "\uff08": "(", "\uff09": ")",
}  # fmt: skip


def type_of(value: Lexeme) -> str:
    """The type that a parameter with this default has."""
    if value.kind == "number":
        return "int" if value.text.replace("_", "").isdigit() else "float"
    if value.kind in ("string", "open_string", "quoted"):
        return "str"
    return "bool" if value.text.lower() in ("true", "false") else "TYPE"
