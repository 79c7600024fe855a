"""Where the modules that `pytest bench/` needs take msgspec from: it is used where it is installed.

    from asd.schema import msgspec

Without it, as on the bare image of a GPU machine, `asd.schema.plain` has the part of it that the harness
uses: the same values, the same bytes, the same messages, more slowly. `pip install asd` installs msgspec.
"""

from typing import TYPE_CHECKING

__all__ = ["msgspec"]

if TYPE_CHECKING:
    import msgspec
else:
    try:
        import msgspec
    except ModuleNotFoundError:
        import asd.schema.plain as msgspec
