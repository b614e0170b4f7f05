"""A figure for a paper:  python scripts/figure.py frontier RUN [RUN ...] -o frontier.pdf"""

import sys

from circuitprune.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("figure"))
