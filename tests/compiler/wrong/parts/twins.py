"""A function with the name of a shipped one."""


def exact_match(completions: str, answers: str) -> float:
    """The name is taken."""
    return float(completions == answers)
