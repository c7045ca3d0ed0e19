"""plan.json: written whole or not at all, read with every fault named."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from rldsl.compiler.plan import SCHEMA_MAJOR, SCHEMA_VERSION, Plan, plan_hash, to_builtins
from rldsl.diagnostics import fail

_WIDTH = 160


def dumps(plan: Plan) -> str:
    """The plan's JSON: the same bytes for the same plan, one op a line so that diffs read well."""
    return _pretty(to_builtins(plan), 0) + "\n"


def _pretty(value: Any, depth: int) -> str:
    """JSON with one line for everything that fits in 160 columns."""
    if not isinstance(value, (dict, list)) or not value:
        return json.dumps(value, ensure_ascii=False)
    room = _WIDTH - 2 * depth
    if _left(value, room) >= 0:
        flat = json.dumps(value, ensure_ascii=False)
        if len(flat) <= room:
            return flat
    pad = "  " * (depth + 1)
    if isinstance(value, dict):
        items = [f"{pad}{json.dumps(k, ensure_ascii=False)}: {_pretty(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + "  " * depth + "}"
    return "[\n" + ",\n".join(pad + _pretty(v, depth + 1) for v in value) + "\n" + "  " * depth + "]"


def _left(value: Any, room: int) -> int:
    """What is left of `room` columns, at most, behind the JSON of `value`; looks no further once there is none."""
    if isinstance(value, str):
        return room - len(value) - 2
    if not isinstance(value, (dict, list)):
        return room - 1
    for item in value:
        room = _left(value[item], room - len(item) - 4) if isinstance(value, dict) else _left(item, room)
        if room < 0:
            break
    return room


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace `path` by `text`, a file with permissions `mode`, at once; RL0101 when that cannot be."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        fail("RL0101", f"cannot write `{path}`: {error.strerror}", fix="the folder must exist and be writable")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        fail("RL0101", f"cannot write `{path}`: {error.strerror}")


def write_plan(plan: Plan, path: Path) -> None:
    """Write plan.json."""
    write_text(path, dumps(plan))


def loads(text: str | bytes, name: str) -> Plan:
    """The plan in `text`. RL0501: no plan; RL0502: its hash does not fit; RL0503: a schema of another major version."""
    body = _json(text, name)
    version = str(body.get("schema", ""))
    major = version.partition(".")[0]
    if not major.isdecimal():
        fail(
            "RL0501",
            f"`{name}` is no plan: it has no `schema` version",
            fix="make one with `rldsl compile FILE --emit plan.json`",
        )
    if int(major) != SCHEMA_MAJOR:
        fail(
            "RL0503",
            f"`{name}` has plan schema {version}",
            expected=f"{SCHEMA_MAJOR}.x, as of this rldsl",
            found=version,
            fix="compile it again with this version",
        )
    try:
        plan = msgspec.convert(body, Plan)
    except msgspec.ValidationError as error:
        fail("RL0501", f"`{name}` is no plan: {error}", fix="compile it again from the source")
    if body.get("hash") != plan_hash(body):
        fail(
            "RL0502",
            f"`{name}` was changed after it was compiled: its hash does not fit",
            expected=str(body.get("hash")),
            found=plan_hash(body),
            fix="change the source and compile again, so that what runs is what was checked",
        )
    return plan


def _json(text: str | bytes, name: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
        json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair has no bytes to hash
    except (ValueError, RecursionError) as error:
        fail(
            "RL0501",
            f"`{name}` is no JSON: {error}",
            fix="make a plan with `rldsl compile FILE --emit plan.json`",
        )
    if not isinstance(body, dict):
        fail("RL0501", f"`{name}` is no plan: it holds no object", expected=f"schema {SCHEMA_VERSION}")
    return body


def read_plan(path: Path) -> Plan:
    """Read plan.json; RL0101 when there is no such file."""
    try:
        text = path.read_bytes()
    except OSError as error:
        fail(
            "RL0101",
            f"cannot read `{path}`: {error.strerror}",
            fix="compile one with `rldsl compile FILE --emit plan.json`",
        )
    return loads(text, str(path))


def source_dir(plan: Plan, path: Path) -> Path:
    """The folder that the plan's user files are relative to: its source's, seen from the plan or from here.

    The plan's own folder where the source is in neither place.
    """
    named = Path(plan.source.path)
    places = (path.parent / named, named) if plan.source.path else ()
    return next((p.parent for p in places if p.is_file()), path.parent).resolve()
