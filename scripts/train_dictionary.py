"""Train dictionaries: python scripts/train_dictionary.py zoo/small m0 resid1 -o FILE [--steps N]"""

import argparse

from circuitprune.pipelines.dictionaries import DictionaryOptions, train_dictionaries

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="zoo/small, a folder or a hub id")
    parser.add_argument("sites", nargs="+", help="places: m3, a3, resid3 or input")
    parser.add_argument("-o", "--out", required=True, help="the safetensors file")
    parser.add_argument("--texts", help="a text on each line; without, those of zoo/small")
    for name, field in DictionaryOptions.__dataclass_fields__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=field.default)
    options = vars(parser.parse_args())
    numbers = {name: options.pop(name) for name in DictionaryOptions.__dataclass_fields__}
    found = train_dictionaries(**options, options=DictionaryOptions(**numbers))
    for site, worth in found.items():
        print(site, worth)
