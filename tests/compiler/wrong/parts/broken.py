# Python would not read it.
def brevity(completions: str -> float:
    return 1.0
