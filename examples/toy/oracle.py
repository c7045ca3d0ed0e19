"""The environment of tools.rl."""


def oracle(completions: str, answers: str) -> tuple[str, bool]:
    """(observation, done): whoever writes a `?` is told the number; with anything else the conversation is over."""
    return (f"{answers}=", False) if "?" in completions else ("", True)
