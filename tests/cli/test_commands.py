"""What each command prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rldsl.backends import engines
from rldsl.cli import check as check_verb
from rldsl.cli import entry, ls, main, run
from rldsl.compiler.pipeline import PASS_NAMES
from rldsl.compiler.plan import Plan
from rldsl.compiler.plan_io import read_plan, write_plan


@pytest.fixture
def plan(folder) -> Plan:
    assert main(["compile", "tiny.rl", "--emit", "plan.json"]) == 0
    return read_plan(folder / "plan.json")


def test_check_finds_nothing(folder, capsys):
    assert main(["check", "tiny.rl"]) == 0
    assert capsys.readouterr() == ("tiny.rl: no errors\n", "")


def test_check_says_what_is_wrong_and_where(folder, capsys):
    assert main(["check", "bad.rl"]) == 1
    out, err = capsys.readouterr()
    assert "error[RL0201]: unknown field `text`" in out
    assert "--> bad.rl:11:" in out
    assert "did you mean `texts`?" in out
    assert err == ""


def test_check_json_is_one_object_a_line(folder, capsys):
    assert main(["check", "bad.rl", "--json"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["code"] for line in lines] == ["RL0201"]


def test_check_writes_nothing(folder):
    before = sorted(folder.iterdir())
    main(["check", "tiny.rl"])
    assert sorted(folder.iterdir()) == before


def test_warnings_do_not_fail(folder, capsys):
    text = (folder / "tiny.rl").read_text()
    (folder / "tiny.rl").write_text(text.replace("param group", "param unread : int = 1\n  param group"))
    assert main(["check", "tiny.rl"]) == 0
    assert "warning[RL0452]" in capsys.readouterr().out
    assert main(["compile", "tiny.rl", "--emit", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["algorithm"] == "tiny"
    assert "warning[RL0452]" in err


def test_compile_emits_to_a_file_and_to_stdout_the_same(folder, capsys):
    assert main(["compile", "tiny.rl", "--emit", "plan.json"]) == 0
    assert "-> plan.json" in capsys.readouterr().out
    assert main(["compile", "tiny.rl", "--emit", "-"]) == 0
    assert capsys.readouterr().out == (folder / "plan.json").read_text()


def test_a_failed_compile_leaves_the_old_plan(folder):
    (folder / "plan.json").write_text("mine")
    assert main(["compile", "bad.rl", "--emit", "plan.json"]) == 1
    assert (folder / "plan.json").read_text() == "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["bad.rl", "plan.json", "tiny.rl"]


def test_set_changes_a_parameter(folder):
    assert main(["compile", "tiny.rl", "--emit", "p.json", "--set", "group=2", "--set", "kl_coef=0.1"]) == 0
    plan = read_plan(folder / "p.json")
    assert plan.parameters == {"group": 2, "kl_coef": 0.1}
    assert "ref_logp" in {field for op in plan.ops() for field in op.writes}


def test_world_size_is_fixed(folder):
    assert main(["compile", "tiny.rl", "--emit", "p.json", "--world-size", "4"]) == 0
    assert read_plan(folder / "p.json").world_size == 4


def test_deploy_comes_from_another_file(folder):
    (folder / "two.rl").write_text("deploy { cluster 2 x cpu }\n")
    assert main(["compile", "tiny.rl", "--emit", "p.json", "--deploy", "two.rl"]) == 0
    assert read_plan(folder / "p.json").cluster == "cpu"


def test_a_pass_can_be_left_out(folder, plan):
    assert main(["compile", "tiny.rl", "--emit", "p.json", "--disable-pass", "elide_old_logp"]) == 0
    count = len(list(read_plan(folder / "p.json").ops()))
    assert count > len(list(plan.ops()))


def test_passes_are_printed_and_timed(folder, capsys):
    assert main(["compile", "tiny.rl", "--emit", "-", "--print-after", "bind_parameters", "--time-passes"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)
    assert "ms  resolve_names" in err
    assert err.count("algorithm tiny {") == 1
    assert "n = 4" in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("compile tiny.rl --print-after nope", "RL0207"),
        ("compile tiny.rl --disable-pass nope", "RL0207"),
        ("compile tiny.rl --set grup=2", "RL0203"),
        ("compile tiny.rl --set group=many", "RL0304"),
        ("compile tiny.rl --world-size 5", "RL0402"),
        ("compile tiny.rl --emit no/such/plan.json", "RL0101"),
        ("compile gone.rl", "RL0101"),
        ("compile tiny.toml", "RL0103"),
        ("show gone.json", "RL0101"),
        ("run tiny.rl --steps 1 -n 3", "RL0707"),
    ],
)
def test_the_users_errors(folder, capsys, arguments, code):
    assert main(arguments.split()) == 1
    out, err = capsys.readouterr()
    assert f"error[{code}]" in err
    assert out == ""


@pytest.mark.parametrize(
    ("text", "code"),
    [("{", "RL0501"), ("[]", "RL0501"), ("{}", "RL0501"), ('{"schema": "9.0"}', "RL0503")],
)
def test_what_is_no_plan(folder, capsys, text, code):
    (folder / "plan.json").write_text(text)
    assert main(["show", "plan.json"]) == 1
    assert f"error[{code}]" in capsys.readouterr().err


def test_an_edited_plan(folder, plan, capsys):
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(text.replace("1e-05", "1e-04"))
    assert main(["run", "plan.json", "--steps", "1"]) == 1
    assert "error[RL0502]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    ["nope", "compile", "compile a.rl --nope", "--nope", "--json check", "run tiny.rl", "run tiny.rl --steps 0",
     "run tiny.rl --steps 1 --backend slurm", "explain RL9999", "show tiny.rl --rank -1"],
)  # fmt: skip
def test_a_wrong_command_line_exits_with_1(folder, capsys, arguments):
    assert main(arguments.split()) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip()
    assert "Traceback" not in err


def test_an_unknown_command_gets_a_suggestion(capsys):
    assert main(["chekc"]) == 1
    assert "did you mean `check`?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], *([verb, "--help"] for verb in entry.VERBS)])
def test_help(capsys, arguments):
    assert main(arguments) == 0
    assert "usage: rldsl" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rldsl 0.")


def test_show_of_a_source_and_of_its_plan_agree(folder, plan, capsys):
    capsys.readouterr()
    assert main(["show", "tiny.rl"]) == 0
    shown = capsys.readouterr().out
    assert main(["show", "plan.json"]) == 0
    assert capsys.readouterr().out == shown
    assert "Each step of every rank" in shown
    assert "any number of ranks that divides 16" in shown


@pytest.mark.parametrize("name", PASS_NAMES)
def test_every_pass_can_be_printed(folder, capsys, name):
    """Once, as a module: what it prints parses again, as far as it is the graph."""
    options = ["--world-size", "4", "--layout", "actor.generate : hf(dp = 2)"]
    assert main(["compile", "tiny.rl", "--print-after", name, *options]) == 0
    printed = capsys.readouterr().err
    assert printed.count("algorithm tiny {") == 1
    assert ("# group" in printed) == (PASS_NAMES.index(name) >= PASS_NAMES.index("place_on_mesh"))
    assert ("# load " in printed) == (PASS_NAMES.index(name) >= PASS_NAMES.index("lower_nodes"))
    assert ("# reshard " in printed) == (PASS_NAMES.index(name) >= PASS_NAMES.index("lower_reshards"))
    assert ("# program of ranks 2 to 3" in printed) == (name == "emit_programs")


def test_every_pass_is_timed_in_order_and_by_time(folder, capsys):
    assert main(["compile", "tiny.rl", "--time-passes"]) == 0
    lines = capsys.readouterr().err.splitlines()
    middle = next(i for i, line in enumerate(lines) if line.endswith("all; the slowest first:"))
    assert [line.split()[-1] for line in lines[:middle]] == list(PASS_NAMES)
    slowest = [float(line.split()[0]) for line in lines[middle + 1 :]]
    assert len(slowest) == len(PASS_NAMES)
    assert slowest == sorted(slowest, reverse=True)


def test_a_pass_left_out_cannot_be_printed(folder, capsys):
    assert main(["compile", "tiny.rl", "--print-after", "elide_old_logp", "--disable-pass", "elide_old_logp"]) == 1
    assert "nothing to print after `elide_old_logp`" in capsys.readouterr().err


def test_show_one_rank(folder, plan, capsys):
    capsys.readouterr()
    assert main(["show", "plan.json", "--rank", "1"]) == 0
    assert "╭" not in capsys.readouterr().out
    assert main(["show", "plan.json", "--rank", "1", "--format", "json"]) == 0
    (program,) = json.loads(capsys.readouterr().out)["programs"]
    assert set(program) >= {"first", "last", "ops"}


def test_show_a_rank_that_there_is_not(folder, capsys):
    assert main(["show", "tiny.rl", "--world-size", "2", "--rank", "2"]) == 1
    assert "ranks 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize(("form", "begins"), [("mermaid", "flowchart TD"), ("dot", 'digraph "tiny"'), ("json", "{")])
def test_show_formats(folder, plan, capsys, form, begins):
    capsys.readouterr()
    assert main(["show", "plan.json", "--format", form]) == 0
    assert capsys.readouterr().out.startswith(begins)


def test_options_of_compilation_mean_nothing_for_a_plan(folder, plan, capsys):
    assert main(["show", "plan.json", "--set", "group=2"]) == 1
    assert "--set" in capsys.readouterr().err


def test_explain(capsys):
    for code in ("RL0201", "rl0201", "201"):
        assert main(["explain", code]) == 0
        assert capsys.readouterr().out.startswith("# RL0201: unknown field")
    assert main(["explain"]) == 0
    assert "RL0707  the number of ranks does not fit" in capsys.readouterr().out
    assert main(["explain", "RL0200"]) == 1
    assert "did you mean `RL0" in capsys.readouterr().err


def test_ls(capsys):
    assert main(["ls"]) == 0
    out = capsys.readouterr().out
    assert "group_advantage(score : f32[sample]; group : int" in out
    assert "reasoning_gym(dataset : str; ...)" in out
    assert "collect" not in out.partition("methods of models")[2]
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_ls_breaks_between_words_and_never_within_a_type(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.count("[") != line.count("]")] == []


def test_ls_of_one_kind(capsys):
    assert main(["ls", "clusters"]) == 0
    out = capsys.readouterr().out
    assert "h100: H100; 79.1 GiB, 3,350 GB/s, 989 TFLOP/s in bf16" in out and "models" not in out
    assert main(["ls", "models", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    by_name = {each["name"]: each for each in found}
    assert by_name["Qwen2.5-72B"] == {
        "name": "Qwen2.5-72B",
        "parameters": 72_706_203_648,
        "active_parameters": 72_706_203_648,
        "kv_bytes_per_token": 327_680,
        "sources": ["Qwen/Qwen2.5-72B", "Qwen/Qwen2.5-72B-Instruct"],
    }
    assert main(["ls", "--json", "clusters"]) == 0
    (clusters,) = json.loads(capsys.readouterr().out).values()
    assert next(c for c in clusters if c["name"] == "h100")["network"] == 50
    assert main(["ls", "clusterss"]) == 1


def test_ls_json_is_for_programs(capsys):
    assert main(["ls", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert tuple(found) == ls.KEYS
    by_name = {key: {item.get("name"): item for item in items} for key, items in found.items()}
    assert by_name["functions"]["group_advantage"] == {
        "name": "group_advantage",
        "inputs": [{"name": "score", "types": ["f32[sample]"], "optional": False}],
        "settings": [
            {"name": "group", "type": "int", "default": None, "required": True},
            {"name": "eps", "type": "float", "default": 1e-4, "required": False},
            {"name": "scale", "type": "bool", "default": True, "required": False},
        ],
        "outputs": ["f32[sample]"],
    }
    assert list(by_name["methods"]) == ["generate", "extend", "logprob", "value", "score", "train"]
    assert by_name["methods"]["score"]["outputs"] == [{"name": "score", "type": "f32[sample]"}]
    assert by_name["statements"]["metric"]["reductions"] == ["mean", "std", "min", "max", "sum"]
    assert by_name["data_sources"]["jsonl"]["open_ended"] and by_name["clusters"]["cpu"]["hardware"]


class FakeBackend:
    """Stands for a backend where only the command line is tested."""

    def __init__(self) -> None:
        self.given: dict[str, object] = {}

    def run(self, plan, **given):
        self.given = given
        observer = given["observer"]
        observer.on_start(plan, given["steps"])
        observer.on_step({"score": 0.5, "seconds": 1.0})
        observer.on_end()


@pytest.fixture
def backend(monkeypatch) -> FakeBackend:
    fake = FakeBackend()
    monkeypatch.setattr(run, "load_backend", lambda name: fake)
    return fake


def test_run_hands_on_what_was_asked_for(folder, plan, backend, capsys):
    assert main(["run", "plan.json", "--steps", "3", "-n", "2", "--run-dir", "out", "--timeout", "5"]) == 0
    given = {k: v for k, v in backend.given.items() if k != "observer"}
    assert given == {"steps": 3, "world_size": 2, "run_dir": Path("out"), "source_dir": folder, "timeout_s": 5}
    assert "step 1/3  reward 0.500  1.0 s" in capsys.readouterr().out


def test_run_defaults(folder, backend):
    assert main(["run", "tiny.rl", "--steps", "1"]) == 0
    assert backend.given["world_size"] == 1
    assert str(backend.given["run_dir"]).startswith(f"runs{os.sep}tiny-2")
    assert main(["run", "tiny.rl", "--steps", "1", "--world-size", "4"]) == 0
    assert backend.given["world_size"] == 4


def test_no_run_forgets_its_budget(folder, backend, capsys):
    assert main(["run", "tiny.rl", "--steps", "1", "--memory", "3GiB"]) == 1
    assert "memory is not planned: how many ranks there are is not known" in capsys.readouterr().err
    assert not backend.given
    assert main(["run", "tiny.rl", "--steps", "1", "--memory", "3GiB", "--world-size", "2"]) == 0
    assert backend.given["world_size"] == 2


def test_a_plan_for_other_ranks(folder, backend, capsys):
    assert main(["run", "tiny.rl", "--steps", "1", "--world-size", "4", "-n", "2"]) == 1
    assert "error[RL0707]: the plan is for 4 ranks, not 2" in capsys.readouterr().err


def test_the_source_folder_of_a_plan_elsewhere(folder, plan, backend):
    (folder / "deep").mkdir()
    write_plan(plan, folder / "deep" / "plan.json")
    assert main(["run", "deep/plan.json", "--steps", "1"]) == 0
    assert backend.given["source_dir"] == folder


def test_run_folders_have_names_of_their_own(folder):
    first = run.new_run_dir("tiny")
    first.mkdir(parents=True)
    assert run.new_run_dir("tiny") != first


def test_a_bug_of_ours_leaves_a_reproducer(folder, capsys, monkeypatch, tmp_path):
    def broken(args):
        raise KeyError("oops")

    monkeypatch.setattr(check_verb, "execute", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["check", "tiny.rl"]) == 70
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    report = next(tmp_path.glob("rldsl-bug-*.txt"))
    assert str(report) in err
    text = report.read_text()
    assert "KeyError: 'oops'" in text
    assert "algorithm tiny {" in text
    assert "command: rldsl check tiny.rl" in text


def test_ctrl_c_exits_with_130(folder, capsys, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(check_verb, "execute", interrupted)
    assert main(["check", "tiny.rl"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_exit_codes_of_processes(rldsl, folder):
    assert rldsl("check", "tiny.rl").returncode == 0
    bad = rldsl("check", "bad.rl")
    assert bad.returncode == 1
    assert "\x1b[" not in bad.stdout
    assert rldsl("frobnicate").returncode == 1


def test_a_closed_pipe_is_quiet(rldsl, folder):
    python = shlex.quote(sys.executable)
    command = f"{python} -m rldsl show tiny.rl | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_no_color_wins_over_a_terminal(folder, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["check", "bad.rl"])
    assert "\x1b[" in capsys.readouterr().out
    main(["check", "bad.rl", "--no-color"])
    assert "\x1b[1;31m" not in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(["check", "bad.rl"])
    assert "\x1b[1;31m" not in capsys.readouterr().out


def test_a_terminal_without_unicode(folder):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "rldsl", "show", "tiny.rl"],
        cwd=folder, env=environment, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert b"rollout" in done.stdout


def test_a_plan_that_the_verifier_refuses(folder, plan, capsys):
    program = plan.programs[0]
    without = tuple(op for op in program.ops if op.id != "reward")
    write_plan(
        msgspec.structs.replace(plan, programs=(msgspec.structs.replace(program, ops=without),)), folder / "p.json"
    )
    assert main(["run", "p.json", "--steps", "1"]) == 1
    assert "error[RL0505]" in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_a_missing_package_names_its_extra(folder, capsys, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert main(["run", "tiny.rl", "--steps", "1"]) == 1
    err = capsys.readouterr().err
    assert "error[RL0601]" in err
    assert "pip install 'rldsl[torch]'" in err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("target", ["tiny.rl", "other.py", "."])
def test_a_plan_is_not_written_over_an_algorithm(folder, capsys, target):
    before = (folder / "tiny.rl").read_text()
    assert main(["compile", "tiny.rl", "--emit", target]) == 1
    assert "error[RL0101]" in capsys.readouterr().err
    assert (folder / "tiny.rl").read_text() == before and not (folder / "other.py").exists()


@pytest.mark.parametrize("target", ["/proc/nowhere", "tiny.rl", "tiny.rl/deeper"])
def test_a_run_folder_that_cannot_be_written(folder, capsys, target):
    assert main(["run", "tiny.rl", "--steps", "1", "--run-dir", target]) == 1
    assert "error[RL0101]: cannot write to" in capsys.readouterr().err


def test_an_earlier_run_is_not_replaced_unasked(folder, backend, capsys):
    (folder / "old").mkdir()
    (folder / "old" / "metrics.jsonl").write_text("{}\n")
    assert main(["run", "tiny.rl", "--steps", "1", "--run-dir", "old"]) == 1
    assert "error[RL0710]: `old` holds a run already" in capsys.readouterr().err
    assert (folder / "old" / "metrics.jsonl").read_text() == "{}\n"
    killed = folder / "old" / "offload-3"
    killed.mkdir()
    (killed / "actor.weights.bin").write_bytes(b"1234")
    assert main(["run", "tiny.rl", "--steps", "1", "--run-dir", "old", "--overwrite"]) == 0
    assert not killed.exists()


def test_ctrl_c_while_starting(folder):
    """Before anything heavy is imported, too: 130, and no traceback."""
    program = "import os, signal, sys; from rldsl.cli import entry; entry.import_module = lambda n: os.kill(os.getpid(), signal.SIGINT); sys.exit(entry.main(['check', 'tiny.rl']))"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 130 and "Traceback" not in done.stderr


def test_exit_of_the_users_file_is_an_error(folder, capsys):
    (folder / "a.py").write_text("import sys\nsys.exit(4)\n")
    assert main(["check", "a.py"]) == 1
    assert "RL0104" in capsys.readouterr().out


def test_the_hint_is_about_the_error(folder, capsys):
    text = (folder / "bad.rl").read_text().replace("param group", "param unread : int = 1\n  param group")
    (folder / "bad.rl").write_text(text)
    main(["check", "bad.rl"])
    assert "`rldsl explain RL0201` says more" in capsys.readouterr().out
