"""Live passes, all arms taking turns on each item: `asd.study.live`."""

from asd.study.live import Live, Timed, run_live

__all__ = ["Live", "Timed", "run_live"]
