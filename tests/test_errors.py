import ast
import inspect
import re
from pathlib import Path

import pytest

from glora_automl import errors

ERRORS = [name for name in errors.__all__ if name != "Stopped"]
"""All but Stopped, which is not an error."""


def test_all_lists_every_exception():
    classes = {
        n for n, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
    }
    assert classes == set(errors.__all__)
    assert errors.__all__ == sorted(errors.__all__)


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_a_documented_glora_error(name):
    error = getattr(errors, name)
    assert issubclass(error, errors.GLoRAError)
    assert issubclass(error, Exception)
    assert error.__doc__


def test_stopped_is_not_an_exception():
    assert errors.Stopped.__bases__ == (BaseException,)
    assert errors.Stopped.__doc__


@pytest.mark.parametrize("name", errors.__all__)
def test_docstring_tree_has_every_exception(name):
    assert name in errors.__doc__


@pytest.mark.parametrize("name", [n for n in ERRORS if n != "GLoRAError"])
def test_error_is_a_value_or_a_runtime_error(name):
    error = getattr(errors, name)
    assert issubclass(error, ValueError) != issubclass(error, RuntimeError)


def test_errors_are_siblings_except_the_one_that_restarts_a_training():
    for name in ERRORS:
        if name != "GLoRAError":
            parent = errors.TrainingError if name == "DivergenceError" else errors.GLoRAError
            assert getattr(errors, name).__bases__[0] is parent


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
def test_error_of_input_is_a_value_error_and_of_state_a_runtime_error(name, builtin):
    assert issubclass(getattr(errors, name), builtin)


PACKAGE = Path(errors.__file__).parent
SOURCES = sorted(
    path for path in PACKAGE.rglob("*.py") if "cli" not in path.relative_to(PACKAGE).parts
)


def raised(tree):
    """All raise statements, and all calls of an exception's class: some are raised later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            yield node
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            if re.search(r"(Error|^error|Exception)$", name):
                yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_message_names_no_command_line_flag(path):
    found = {
        f"{path.relative_to(PACKAGE)}:{constant.lineno}: {constant.value!r}"
        for node in raised(ast.parse(path.read_text(encoding="utf-8")))
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant)
        and isinstance(constant.value, str)
        and re.search("--[a-z]", constant.value)
    }
    assert not found, "\n".join(sorted(found))
