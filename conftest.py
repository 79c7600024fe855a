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
    hypothesis.settings.load_profile(
        os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev")
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything that hypothesis runs is a property; hypothesis's own mark comes too late for -m."""
    for item in items:
        if hypothesis is not None and hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("property")
