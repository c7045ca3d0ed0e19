"""Reads plan.json with nothing but the standard library: copy this file into a tool of your own.

    from plan_reader import load

    plan = load("plan.json")
    for op in plan.program(rank=3):
        print(op["op"], op["node"], op["ranks"])

Everything is plain dicts, lists, strings and numbers, as in the file (its JSON Schema is `plan.schema.json`; what a
plan means is in `docs/plan.md`). `python plan_reader.py plan.json RANK [WORLD_SIZE]` prints a rank's program, one
JSON object a line. Python 3.9 or newer.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

SCHEMA_MAJOR = 1

_LAID_OUT = ("load", "take", "train", "reshard")


class PlanError(ValueError):
    """The file is no plan, was changed after it was compiled, or has no such rank."""


class Plan:
    """A plan that was read: `body` is all of it, the rest are short cuts."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.algorithm: str = body["algorithm"]
        self.world_size: int | None = body["world_size"]
        self.fields: dict[str, dict[str, Any]] = {f["name"]: f for f in body["fields"]}
        self.models: dict[str, dict[str, Any]] = {m["name"]: m for m in body["models"]}
        self.groups: dict[str, dict[str, Any]] = {g["name"]: g for g in body["groups"]}

    def program(self, rank: int, world_size: int | None = None) -> list[dict[str, Any]]:
        """What `rank` does in each step, in order, with its own coordinates filled in.

        Each op has, besides its keys in the file, `ranks`: those of its group, as pairs of the first and the one past
        the last; `coordinates` of this rank along the group's axes; and where rows are laid out, `prompts`: the
        positions in the batch of those that lie on this rank. A plan for any number of ranks needs `world_size`.
        PlanError when there is no such rank.
        """
        total = self._total(world_size)
        if not 0 <= rank < total:
            raise PlanError(f"there is no rank {rank} among {total}")
        program = next(p for p in self.body["programs"] if _covers(p, rank))
        return [self._expanded(op, rank, total) for op in program["ops"]]

    def ranks(self, group: str, world_size: int | None = None) -> list[list[int]]:
        """The ranks of `group`: pairs of the first and the one past the last, rising."""
        return self.groups[group]["ranks"] or [[0, self._total(world_size)]]

    def coordinates(self, group: str, rank: int, world_size: int | None = None) -> dict[str, int] | None:
        """Where `rank` lies along the axes of `group`; `dp` says which rows it has. None for a rank outside."""
        index, _ = self._dealt(group, rank, world_size)
        if index is None:
            return None
        made = {}
        for axis, size in self._axes(group, world_size).items():
            index, made[axis] = divmod(index, size)
        return made

    def _dealt(self, group: str, rank: int, world_size: int | None) -> tuple[int | None, int]:
        """The number of a rank inside a group, and how many there are."""
        index, before = None, 0
        for first, last in self.ranks(group, world_size):
            if first <= rank < last:
                index = before + rank - first
            before += last - first
        return index, before

    def _axes(self, group: str, world_size: int | None) -> dict[str, int]:
        """The axes in the order in which ranks are numbered, the fastest first."""
        of = self.groups[group]
        size = self._dealt(group, 0, world_size)[1]
        return {"tp": of["tp"], "cp": of["cp"], "dp": size // (of["tp"] * of["cp"] * of["pp"]), "pp": of["pp"]}

    def _total(self, world_size: int | None) -> int:
        if self.world_size is not None:
            if world_size not in (None, self.world_size):
                raise PlanError(f"the plan is for exactly {self.world_size} ranks, not for {world_size}")
            return self.world_size
        if world_size is None:
            raise PlanError("the plan is for any number of ranks: say how many")
        if world_size < 1 or self.body["divides"] % world_size:
            raise PlanError(f"the plan is for a number of ranks that divides {self.body['divides']}, not {world_size}")
        return world_size

    def _expanded(self, op: dict[str, Any], rank: int, total: int) -> dict[str, Any]:
        made = {**op, "ranks": self.ranks(op["group"], total)}
        made["coordinates"] = self.coordinates(op["group"], rank, total)
        if op["op"] in _LAID_OUT:
            group = op["target"] if op["op"] == "reshard" else op["group"]
            at = self.coordinates(group, rank, total)
            made["prompts"] = [] if at is None else list(range(at["dp"], op["batch"], self._axes(group, total)["dp"]))
        return made


def load(path: str | Path) -> Plan:
    """The plan in a file. PlanError when it is none; OSError when it cannot be read."""
    return loads(Path(path).read_text(encoding="utf-8"))


def loads(text: str) -> Plan:
    """The plan in `text`, its schema version and hash checked; keys that a newer minor version adds are kept."""
    try:
        body = json.loads(text)
    except ValueError as error:
        raise PlanError(f"no JSON: {error}") from error
    if not isinstance(body, dict) or "schema" not in body:
        raise PlanError("no plan: it has no schema version")
    if str(body["schema"]).partition(".")[0] != str(SCHEMA_MAJOR):
        raise PlanError(f"plan schema {body['schema']}; this reader knows {SCHEMA_MAJOR}.x")
    if body.get("hash") != digest(body):
        raise PlanError("the plan was changed after it was compiled: its hash does not fit")
    try:
        return Plan(body)
    except KeyError as error:
        raise PlanError(f"no plan: it has no {error}") from error


def digest(body: dict[str, Any]) -> str:
    """sha256 over the plan without `hash` and `source`: JSON with sorted keys, no spaces, UTF-8."""
    kept = {k: v for k, v in body.items() if k not in ("source", "hash")}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _covers(program: dict[str, Any], rank: int) -> bool:
    first, last = program["first"], program["last"]
    return bool(first <= rank and (last is None or rank < last))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(f"usage: {sys.argv[0]} plan.json RANK [WORLD_SIZE]")
    try:
        for each in load(sys.argv[1]).program(*map(int, sys.argv[2:])):
            print(json.dumps(each, ensure_ascii=False))
    except (OSError, ValueError) as problem:
        sys.exit(f"{sys.argv[0]}: {problem}")
