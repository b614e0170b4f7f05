"""Find a circuit:  python scripts/train_mask.py configs/ioi.yaml [key=value ...] [--dry-run]"""

import sys

from circuitprune.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
