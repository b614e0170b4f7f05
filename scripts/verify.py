"""The evidence for a run's circuit:  python scripts/verify.py RUN_FOLDER [key=value ...]"""

import sys

from circuitprune.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("verify"))
