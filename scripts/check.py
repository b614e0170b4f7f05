"""What becomes of a file of pairs:  python scripts/check.py pairs.jsonl [MODEL] [key=value ...]"""

import sys

from circuitprune.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("check"))
