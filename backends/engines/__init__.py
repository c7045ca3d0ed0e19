"""Engines: what runs a model. This file imports none, so that a missing package becomes one clear message."""

from __future__ import annotations

from importlib.util import find_spec

from rldsl.diagnostics import fail


def require(*packages: str, extra: str = "torch", then: str = "") -> None:
    """Raise RL0601, naming the extra to install (and what to do `then`), unless all `packages` can be imported."""
    missing = [p for p in packages if find_spec(p) is None]
    if missing:
        names = " and ".join(f"`{p}`" for p in missing)
        fail(
            "RL0601",
            f"this needs {names}, which {'is' if len(missing) == 1 else 'are'} not installed",
            fix=f"pip install 'rldsl[{extra}]'{then}",
        )
