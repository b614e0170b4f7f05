"""Exchange a run's edges by exact runs:  python scripts/refine.py RUN_FOLDER [key=value ...]"""

import sys

from circuitprune.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("refine"))
