"""`python -m circuitprune COMMAND ...`."""

import sys

from circuitprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
