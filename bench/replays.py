"""Every policy of a run, walked over the recorded outcomes of that same run: `asd.study.walks`."""

from asd.study.walks import SHARES, Contender, Outcomes, Replay, contenders, optimal, walk_of

__all__ = ["SHARES", "Contender", "Outcomes", "Replay", "contenders", "optimal", "walk_of"]
