"""Rewards, the calculator and the debate's prompt: functions of one row."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldsl.algos.rewards import calculator, char_accuracy, exact_match, last_number, last_said, math_verify, rebuttal
from rldsl.compiler.signature import library_signature
from rldsl.types import SAMPLE, DType, FieldType


def test_rewards():
    assert math_verify("The answer is \\boxed{\\frac{1}{2}}.", "0.5") == 1.0
    assert math_verify("3 + 4 = 7", "7") == 1.0
    assert math_verify("I think it is 8", "7") == 0.0
    assert math_verify("", "7") == 0.0
    assert exact_match(" 7\n", "7") == 1.0
    assert exact_match("7.", "7") == 0.0
    assert last_number("3 + 4 = 7.", "7") == 1.0
    assert last_number("7 or 8", "7") == 0.0
    assert last_number("none", "7") == 0.0
    assert last_number("it is -3", "-3") == 1.0
    assert char_accuracy("1234", "1034") == 0.75
    assert char_accuracy("12", "1234") == 0.5
    assert char_accuracy("", "") == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("calc(12+7)", 19),
        ("I need calc( 2 * (3 - 10) )  \n", -14),
        ("calc(1+1) = 2\n calc(2*3)", 6),
        ("calc(-4--4)", 0),
        ("calc(calc(2)", 2),
        ("calc(" + "9*" * 40 + "9)", 9**41),
    ],
)
def test_calculator_answers_a_request(text: str, value: int):
    assert calculator(text) == (f" = {value}\n", False)
    assert calculator(text, before="<tool>", after="</tool>") == (f"<tool>{value}</tool>", False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "19",
        "calc(12+7) is what I want",
        "calc()",
        "calc(1+)",
        "calc(7/2)",
        "calc(2**9)",
        "calc(+3)",
        "calc(1 2)",
        "calc((1)(2))",
        "calc(1)(2)",
        "calc(007)",
        "calc(1.5)",
        "calc(__import__('os'))",
        "calc(" + "(" * 60 + "1" + ")" * 60 + ")",
        "calc(" + "9" * 5000 + ")",
    ],
)
def test_anything_else_ends_the_conversation(text: str):
    assert calculator(text) == ("", True)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="calc(0123456789+-*) \n", max_size=60) | st.text(max_size=30))
def test_calculator_never_raises(text: str):
    observation, done = calculator(f"{text}calc({text})")
    assert done == (observation == "")


def test_calculator_is_read_as_a_function_of_one_row():
    signature = library_signature("calculator")
    assert signature is not None and signature.per_row
    assert signature.outputs == (FieldType(DType.TEXT, (SAMPLE,)), FieldType(DType.BOOL, (SAMPLE,)))


def test_rebuttal_holds_question_and_answer():
    assert rebuttal("1+1=", "3", before="|", after="?") == "1+1=|3?"
    shown = rebuttal("1+1=", "3")
    assert shown.startswith("1+1=") and "3" in shown


def test_what_was_said_last():
    assert last_said("7", "", True) == "7", "a row that was done says nothing more"
    assert last_said("calc(3+4)", "7", False) == "7"
    assert last_said("calc(3+4)", "", False) == "", "an empty answer is one"
    signature = library_signature("last_said")
    assert signature is not None and signature.per_row
