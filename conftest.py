"""Loads the harness, and marks the policy's invariants by machinery so that none is forgotten."""

import os

import pytest

pytest_plugins = ("bench.plugin",)

try:
    import hypothesis
except ImportError:  # a machine that only runs bench/ need not have it
    hypothesis = None

if hypothesis is not None:
    hypothesis.settings.register_profile("dev", deadline=None)
    hypothesis.settings.register_profile(
        "ci", deadline=None, derandomize=True, database=None, print_blob=True
    )
    hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000, print_blob=True)
    hypothesis.settings.register_profile(
        "small", deadline=None, derandomize=True, database=None, max_examples=5
    )
    hypothesis.settings.load_profile(
        os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev")
    )


BACKGROUND = ("PytestUnraisableExceptionWarning", "PytestUnhandledThreadExceptionWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what hypothesis runs (its own mark comes too late for -m); threads and finalisers fail tests."""
    for item in items:
        if item.path.is_relative_to(config.rootpath / "tests"):
            for warning in BACKGROUND:
                item.add_marker(pytest.mark.filterwarnings(f"error::pytest.{warning}"))
        if hypothesis is not None and hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("property")
