"""`python -m rldsl`: the command line."""

import sys

from rldsl.cli import main

if __name__ == "__main__":
    sys.exit(main())
