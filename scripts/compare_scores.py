"""Compare scores:  python scripts/compare_scores.py runs/eap runs/gate_ig [--top 0.05]"""

import sys

from circuitprune.cli import compare_main

if __name__ == "__main__":
    sys.exit(compare_main())
