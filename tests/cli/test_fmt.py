"""`rldsl fmt`: rewrites, checks, shows, refuses."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest

from rldsl.cli import main

UNTIDY = "algorithm a{ # why\nparam x:int=1\n}"
TIDY = "algorithm a {  # why\n  param x : int = 1\n}\n"


@pytest.fixture
def untidy(folder: Path) -> Path:
    path = folder / "untidy.rl"
    path.write_text(UNTIDY)
    return path


def test_rewrites_in_place(untidy, capsys):
    assert main(["fmt", "untidy.rl"]) == 0
    assert untidy.read_text() == TIDY
    assert capsys.readouterr() == ("untidy.rl: formatted\n", "")
    assert main(["fmt", "untidy.rl"]) == 0
    assert capsys.readouterr() == ("", "")
    assert {p.name for p in untidy.parent.iterdir()} == {"untidy.rl", "tiny.rl", "bad.rl"}


def test_keeps_permissions_line_ends_and_links(untidy):
    untidy.write_bytes(UNTIDY.replace("\n", "\r\n").encode())
    untidy.chmod(0o640)
    link = untidy.with_name("link.rl")
    link.symlink_to(untidy)
    assert main(["fmt", "link.rl"]) == 0
    assert untidy.read_bytes() == TIDY.replace("\n", "\r\n").encode()
    assert stat.S_IMODE(untidy.stat().st_mode) == 0o640
    assert link.is_symlink()


def test_does_not_touch_what_is_tidy(untidy):
    untidy.write_text(TIDY)
    os.utime(untidy, (1, 1))
    assert main(["fmt", "untidy.rl"]) == 0
    assert untidy.stat().st_mtime == 1


def test_check(untidy, capsys):
    assert main(["fmt", "--check", "untidy.rl"]) == 1
    assert capsys.readouterr() == ("untidy.rl: would change\n", "")
    assert untidy.read_text() == UNTIDY
    untidy.write_text(TIDY)
    assert main(["fmt", "--check", "untidy.rl"]) == 0
    assert capsys.readouterr() == ("", "")


def test_diff(untidy, capsys):
    assert main(["fmt", "--diff", "untidy.rl"]) == 0
    out, err = capsys.readouterr()
    assert "-algorithm a{ # why\n" in out and "+  param x : int = 1\n" in out and "No newline" in out
    assert (err, untidy.read_text()) == ("", UNTIDY)
    assert main(["fmt", "--diff", "--check", "untidy.rl"]) == 1
    assert "would change" in capsys.readouterr().err


def test_standard_input(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(UNTIDY))
    assert main(["fmt", "-"]) == 0
    assert capsys.readouterr() == (TIDY, "")
    monkeypatch.setattr("sys.stdin", io.StringIO("algorithm a { param x"))
    assert main(["fmt", "-"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "<stdin>:1:" in err


def test_a_file_with_errors_stays_and_the_others_are_formatted(untidy, capsys):
    wrong = untidy.with_name("wrong.rl")
    wrong.write_text("algorithm a {\n  nod x = 3\n  param y\n}\n")
    assert main(["fmt", "wrong.rl", "none.rl", "untidy.rl"]) == 1
    out, err = capsys.readouterr()
    assert wrong.read_text() == "algorithm a {\n  nod x = 3\n  param y\n}\n"
    assert untidy.read_text() == TIDY and out == "untidy.rl: formatted\n"
    assert err.count("error[RL0102]") == 2 and err.count("error[RL0101]") == 1


def test_errors_as_json(untidy, capsys):
    untidy.write_text("algorithm a {\n  param y\n}\n")
    assert main(["fmt", "untidy.rl", "--json"]) == 1
    assert json.loads(capsys.readouterr().err)["code"] == "RL0102"


def test_python_is_for_another_tool(folder, capsys):
    (folder / "a.py").write_text("x=1")
    assert main(["fmt", "a.py"]) == 1
    err = capsys.readouterr().err
    assert "RL0103" in err and "ruff format a.py" in err and err.count("error[") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(untidy, capsys):
    untidy.parent.chmod(0o555)
    try:
        assert main(["fmt", "untidy.rl"]) == 1
    finally:
        untidy.parent.chmod(0o755)
    assert "RL0101" in capsys.readouterr().err and untidy.read_text() == UNTIDY


def test_needs_a_file(folder, capsys):
    assert main(["fmt"]) == 1
    assert "FILE" in capsys.readouterr().err
