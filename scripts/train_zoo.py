"""Train a model of the zoo: python scripts/train_zoo.py [--recipe plain] [--out DIR] [--seed 0]"""

import argparse
from pathlib import Path

import torch

from circuitprune.models.zoo import ZOO
from circuitprune.models.zoo import __file__ as zoo_init
from circuitprune.models.zoo.recipes import RECIPES, find_recipe
from circuitprune.models.zoo.training import train_zoo

SMALL = Path(zoo_init).parent / ZOO["zoo/small"]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="plain", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--out", type=Path, default=SMALL, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="batches of texts, if not the recipe's")
    parser.add_argument("--threads", type=int, default=1, help="part of the recipe, as the seed is")
    parser.add_argument("--n-test", type=int, default=1000, help="pairs of each task to measure on")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = find_recipe(options.recipe)
    recipe = recipe.shortened(options.steps) if options.steps else recipe
    measures = train_zoo(options.out, options.seed, recipe, n_test=options.n_test)
    for kind, tasks in measures.items():
        for name, numbers in tasks.items():
            print(f"{name:13} {kind:9}", *(f"{k} {v:.4f}" for k, v in numbers.items()))
