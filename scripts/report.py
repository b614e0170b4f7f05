"""What runs found, as one HTML file:  python scripts/report.py RUN [RUN ...] [-o report.html]"""

import sys

from circuitprune.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("report"))
