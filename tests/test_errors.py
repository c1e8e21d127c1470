import inspect

import pytest

from glora_automl import errors

ERRORS = [name for name in errors.__all__ if name != "Stopped"]
"""Stopped is no error."""


def test_all_names_every_exception_of_the_module_and_nothing_else():
    classes = {
        n for n, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
    }
    assert classes == set(errors.__all__)
    assert errors.__all__ == sorted(errors.__all__)


@pytest.mark.parametrize("name", ERRORS)
def test_every_exception_is_a_documented_glora_error(name):
    error = getattr(errors, name)
    assert issubclass(error, errors.GLoRAError)
    assert issubclass(error, Exception)
    assert error.__doc__


def test_what_catches_errors_does_not_catch_a_stop():
    assert errors.Stopped.__bases__ == (BaseException,)
    assert errors.Stopped.__doc__


@pytest.mark.parametrize("name", errors.__all__)
def test_the_tree_in_the_module_docstring_draws_every_exception(name):
    assert name in errors.__doc__


@pytest.mark.parametrize("name", [n for n in ERRORS if n != "GLoRAError"])
def test_every_exception_is_also_the_builtin_that_newcomers_expect(name):
    error = getattr(errors, name)
    assert issubclass(error, ValueError) != issubclass(error, RuntimeError)


def test_the_leaves_are_siblings():
    for name in ERRORS:
        if name != "GLoRAError":
            assert getattr(errors, name).__bases__[0] is errors.GLoRAError


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ArchitectureError", ValueError),
        ("SearchSpaceError", ValueError),
        ("BudgetError", ValueError),
        ("LayerError", ValueError),
        ("RecipeError", ValueError),
        ("TaskError", ValueError),
        ("TrainingError", RuntimeError),
        ("CheckpointError", RuntimeError),
        ("StorageError", RuntimeError),
        ("StudyError", RuntimeError),
    ],
)
def test_wrong_input_is_a_value_error_and_a_failing_world_a_runtime_error(name, builtin):
    assert issubclass(getattr(errors, name), builtin)
