"""Where a key stands in the text of a JSON file."""

from __future__ import annotations

import json
import re

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:]')


def key_place(text: str, keys: tuple[str, ...]) -> tuple[int, int, int] | None:
    """Line, column and end of the last of `keys`, each the key of an object within that of the one before.

    Lines and columns count from 1. `text` is valid JSON; None where there is no such key.
    """
    around: list[str | None] = []
    name, key = "", None
    begin = 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "{" | "[":
                around.append(key)
                key = None
            case "}" | "]":
                around.pop()
            case ":":
                key = json.loads(name)
                if (*around[1:], key) == keys:
                    line_begin = text.rfind("\n", 0, begin)
                    line = text.count("\n", 0, begin) + 1
                    return line, begin - line_begin, begin - line_begin + len(name)
            case _:
                name, begin = token[0], token.start()
    return None
