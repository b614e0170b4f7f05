"""A tuned copy of a model:  python scripts/finetune.py configs/tuning/boxes.yaml [key=value ...]"""

import sys

from circuitprune.cli import script_main

if __name__ == "__main__":
    sys.exit(script_main("finetune"))
