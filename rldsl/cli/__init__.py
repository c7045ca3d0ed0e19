"""rldsl.cli: the command line, one file a verb."""

from rldsl.cli.entry import main

__all__ = ["main"]
