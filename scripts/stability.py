"""Same circuit again?  python scripts/stability.py configs/ioi.yaml --seeds 5 --bootstrap 20"""

import sys

from circuitprune.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("stability"))
