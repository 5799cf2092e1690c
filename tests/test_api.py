"""The public Python API: nine functions and two sections of a job, imported lazily, and always the same objects."""

from __future__ import annotations

from importlib import import_module

import pytest

import gcnrec

API = ["Data", "Job", "compare", "evaluate", "ingest", "open_dataset", "open_run", "recommend", "score", "similar", "train"]


def test_the_names_are_pinned():
    assert gcnrec.__all__ == API
    assert dir(gcnrec) == sorted([*API, "__version__"])


@pytest.mark.parametrize("name", API)
def test_each_name_is_documented(name):
    thing = getattr(gcnrec, name)
    assert callable(thing) and thing.__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        gcnrec.fit  # noqa: B018


@pytest.mark.parametrize("name", API)
def test_no_module_of_the_package_is_called_like_a_public_function(name):
    with pytest.raises(ModuleNotFoundError):
        import_module(f"gcnrec.{name}")
