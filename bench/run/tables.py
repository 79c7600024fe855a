"""Tables as text, for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["table"]


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, markdown: bool = False) -> str:
    """Columns as wide as their widest entry, aligned to the left; empty without rows."""
    if not rows:
        return ""
    lines = [[str(entry) for entry in row] for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[entry.ljust(width) for entry, width in zip(line, widths, strict=True)] for line in lines]
    if markdown:
        return "\n".join(f"| {' | '.join(line)} |" for line in padded)
    return "\n".join("  ".join(line).rstrip() for line in padded)
