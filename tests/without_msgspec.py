"""Reads and writes records, one a line, in a process that cannot import msgspec; what it answers is compared.

python -m tests.without_msgspec < questions
"""

from __future__ import annotations

import json
import sys
from typing import Any

__all__ = ["answer"]


def answer(kind: str, text: str) -> list[str]:
    """What reading a text as a kind of record ends in: how, and what it is or what is said of it."""
    from asd.errors import DataError  # noqa: PLC0415 - after msgspec was taken away
    from asd.schema import msgspec  # noqa: PLC0415
    from asd.schema.explained import explained  # noqa: PLC0415

    decode = msgspec.toml.decode if kind == "ladder" else msgspec.json.decode
    try:
        record = decode(text.encode(errors="surrogatepass"), type=_kinds()[kind])
    except msgspec.ValidationError as error:
        return ["refused", explained(error, _kinds()[kind])]
    except msgspec.DecodeError:
        return ["malformed"]  # in words of the parser's own
    except (DataError, UnicodeDecodeError) as error:
        return ["refused", str(error)]
    return ["read", repr(record), msgspec.json.encode(record).decode(), repr(msgspec.to_builtins(record))]


def _kinds() -> dict[str, Any]:
    from asd import ladder, prices, traces  # noqa: PLC0415
    from asd.measurement.records import Run  # noqa: PLC0415
    from asd.policy.artifact import PolicyArtifact  # noqa: PLC0415
    from asd.quality.sandbox import CodeTests  # noqa: PLC0415
    from asd.traces import records  # noqa: PLC0415
    from bench.gate.store import Baseline  # noqa: PLC0415

    return {
        "anything": Any,
        "baseline": Baseline,
        "run": Run,
        "policy": PolicyArtifact,
        "ladder": ladder._LadderFile,
        "prices": prices.PriceFile,
        "header": traces.TraceHeader,
        "trace": records._TraceLine,
        "code": CodeTests,
    }


def main() -> None:
    """Answer standard input, a line of JSON each."""
    sys.modules["msgspec"] = None  # type: ignore[assignment]  # an import of it ends in ModuleNotFoundError
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
