"""Score the edges:  python scripts/attribute.py configs/ioi.yaml [key=value ...] [--dry-run]"""

import sys

from circuitprune.cli import attribute_main

if __name__ == "__main__":
    sys.exit(attribute_main())
