"""Compare circuits:  python scripts/compare.py runs/ioi runs/sva --transfer"""

import sys

from circuitprune.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("compare"))
