"""Functions, most of whose signatures are wrong."""

import rldsl as rl


def brevity(completions: str) -> float:
    """A right one."""
    return 1.0 / (1 + len(completions))


def no_annotation(completions, answers: str) -> float:
    """A parameter of no type."""
    return float(completions == answers)


def no_result(completions: str):
    """A result of no type."""
    return float(len(completions))


def unknown_type(completions: rl.Texts) -> rl.PerSample:
    """A type that rldsl has not."""
    return completions


def half_rows(completions: rl.Text, answers: str) -> float:
    """All rows in one place and one row in another."""
    return float(answers in completions)


def doubled(score: rl.PerSample | None = None) -> rl.PerSample:
    """Right, too; its only field may be absent."""
    return 2 * score
