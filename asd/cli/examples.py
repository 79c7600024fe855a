"""Examples under a command's help."""

from __future__ import annotations

__all__ = ["examples"]


def examples(*lines: str) -> str:
    """An epilog of commands that can be typed as they stand."""
    # \b keeps click from filling the lines up
    return "\n  ".join(["\b\nExamples:", *lines])
