"""Whatever a file holds, what comes out is its value or one of our own errors, in a sentence.

A few inputs of each kind run with the suite, always the same ones. Many, and others each time:

    HYPOTHESIS_PROFILE=thorough python -m pytest tests/fuzz
"""

import os
import resource

import pytest
from hypothesis import HealthCheck, given, settings

from circuitprune.errors import CircuitPruneError
from fuzz.mutations import NOISE
from fuzz.parsers import PARSERS

COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("suite", max_examples=20, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=200, print_blob=True, **COMMON)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

MEMORY = 300_000
"""Kilobytes by which small files, however many, may make the process grow."""
LONGEST = 3000
"""Characters of a message."""

REFUSED = {
    "key=value": "no setting of training is one of `verify`",
    "lock": "of a process elsewhere",
    "versions": "of another model",
    "circuit, Edge-Pruning": "not without a graph",
}
"""Of valid files, those that one of their readers refuses, and why."""

each_parser = pytest.mark.parametrize("name", PARSERS)


def held(name, path, data):
    """Read it: a value, or an error that says what is wrong; and little memory."""
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        PARSERS[name].read(path)
    except CircuitPruneError as error:
        said = str(error)
        assert said.strip() and len(said) < LONGEST, said
        assert "Traceback" not in said and "object at 0x" not in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


@each_parser
def test_a_file_with_faults_is_read_or_refused_in_words(name, tmp_path):
    path = PARSERS[name].make(tmp_path)
    if name not in REFUSED:  # else faults would be put into what is refused for another reason
        PARSERS[name].read(path)

    @PROFILE
    @given(PARSERS[name].mutated(path))
    def read(data):
        held(name, path, data)

    read()


@each_parser
def test_noise_is_read_or_refused_in_words(name, tmp_path):
    path = PARSERS[name].make(tmp_path)

    @PROFILE
    @given(NOISE)
    def read(data):
        held(name, path, data)

    read()
