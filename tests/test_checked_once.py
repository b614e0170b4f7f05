"""The first calls of every function in each test are checked, by checks that are made once."""

import gc
import weakref
from collections.abc import Callable

import checked_once as checks
import jaxtyping
import pytest
import torch
from beartype import beartype
from checked_once import FIRST, checked_once
from conftest import pytest_runtest_setup
from jaxtyping import Float, TypeCheckError
from jaxtyping._decorator import jaxtyped  # as it is without this
from torch import Tensor


@pytest.fixture
def made() -> list[str]:
    return []


@pytest.fixture
def check(made):
    def typechecker(function):
        made.append(function.__name__)
        return beartype(function)

    return checked_once(jaxtyped)(typechecker=typechecker)


def adding(check, offset, axis="row"):
    Rows = Float[Tensor, f"{axis} two"]

    @check
    def add(values: Rows, again: int = 0, then: Callable[[Rows], Rows] | None = None) -> Rows:
        return add(values, again - 1) if again else values[:2] + offset

    return add


def test_each_of_a_def_does_its_own_work_under_checks_that_were_made_once(check, made):
    for offset in range(5):
        add = adding(check, offset)
        assert add(torch.zeros(2, 3), again=2).tolist() == [[offset] * 3] * 2
    once = len(made)
    adding(check, 6)(torch.zeros(2, 3))
    assert len(made) == once > 0
    assert add.__wrapped__(torch.zeros(2, 3)).shape == (2, 3)


def test_the_second_of_a_def_refuses_what_the_first_refuses(check):
    adding(check, 0)(torch.zeros(2, 3))
    add = adding(check, 1)
    with pytest.raises(TypeCheckError, match=r"checking the parameters of .*add"):
        add(torch.zeros(3))
    with pytest.raises(TypeCheckError, match=r"checking the return value of .*add"):
        add(torch.zeros(4, 3))
    with pytest.raises(TypeCheckError, match=r"checking the parameters of .*add"):
        add(torch.zeros(2, 3), again="x")


def test_other_annotations_are_checked_by_other_checks(check):
    adding(check, 0)(torch.zeros(2, 3))
    with pytest.raises(TypeCheckError):
        adding(check, 0, axis="1")(torch.zeros(2, 3))


def test_one_inside_another_of_the_same_def_is_not_taken_for_it(check):
    def after(then, offset):
        @check
        def step(values: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
            return then(values) + offset

        return step

    assert after(after(torch.clone, 1), 10)(torch.zeros(2)).tolist() == [11, 11]


def test_what_the_first_of_a_def_closes_over_is_let_go(check):
    large = torch.zeros(9)
    gone = weakref.ref(large)
    add = adding(check, large)
    adding(check, 0)(torch.zeros(2, 3))
    del large, add
    gc.collect()
    assert gone() is None


def test_the_first_calls_in_each_test_are_checked(check):
    @check
    def same(values: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        return values

    for _ in range(2):
        for _ in range(FIRST):
            with pytest.raises(TypeCheckError):
                same(torch.zeros(2, 3))
        assert same(torch.zeros(2, 3)).shape == (2, 3)
        checks.test.begin()


def test_a_test_begins_here():
    before = checks.test.now
    pytest_runtest_setup()
    assert checks.test.now == before + 1 > 1


def test_the_package_is_under_these_checks():
    assert jaxtyping.jaxtyped.__qualname__ == "checked_once.<locals>.remembering"

    @jaxtyping.jaxtyped(typechecker=beartype)
    def same(values: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        return values

    assert same.__code__.co_qualname.startswith("first_calls")
