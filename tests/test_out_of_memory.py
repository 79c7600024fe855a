"""Memory that runs short, by the errors that torch really raises: batches shrink, nothing is lost."""

from __future__ import annotations

import errno
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import stamina
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from asd.cascade import Cascade
from asd.engines import Verifier
from asd.engines.batches import in_batches
from asd.engines.hf.engine import TransformersEngine
from asd.engines.hf.speculation import SpeculativeEngine
from asd.engines.http.engine import OpenAIEngine
from asd.engines.memory import is_out_of_memory, says_out_of_memory
from asd.errors import (
    EngineError,
    NoStageLeftError,
    OutOfMemoryError,
    StageTooLargeError,
    UnavailableError,
)
from asd.ladder import Stage
from asd.policies import FixedStage, Lossless
from asd.prices import Prices
from asd.resilience import Health
from asd.types import Draft, Query
from tests.fakeserver import refusing, serving
from tests.models import save_random_model, save_shaken, stage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

Fail = Callable[[], object]


def cuda() -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")


def allocator() -> None:
    torch.empty(1 << 50)


def python() -> None:
    bytearray(1 << 60)


def cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def wrapped() -> None:
    try:
        allocator()
    except RuntimeError as error:
        raise RuntimeError("a layer failed") from error


SHORT: list[Fail] = [cuda, allocator, python, cublas, wrapped]


def error_of(fail: Fail) -> Exception:
    try:
        fail()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("fail", SHORT)
def test_shortage_is_recognised(fail: Fail) -> None:
    """By its class, by its words, and behind the error it caused."""
    assert is_out_of_memory(error_of(fail))


@pytest.mark.parametrize(
    "words",
    [
        "MPS backend out of memory (MPS allocated: 9.05 GB, max allowed: 9.07 GB)",
        "HIP out of memory. Tried to allocate 20.00 MiB",
        "XPU out of memory. Tried to allocate 20.00 MiB",
        "CUDA error: out of memory",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 137438953472 bytes.",
        "std::bad_alloc",
        "unable to mmap 988097824 bytes from file <model.safetensors>: Cannot allocate memory (12)",
        "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
    ],
)
def test_words_of_other_backends(words: str) -> None:
    """What devices that are not here say of it."""
    assert says_out_of_memory(words)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        OSError(errno.ENOENT, "No such file or directory"),
        ValueError("memory_gib must be positive"),
    ],
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    """An error that has nothing to do with memory stays what it is."""
    assert not is_out_of_memory(error)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model that never ends an answer, and one that agrees with it on most tokens."""
    large = save_random_model(tmp_path_factory.mktemp("large"), n_stops=0)
    return {"L": large, "S": save_shaken(large, tmp_path_factory.mktemp("small"))}


PRICES = {"S": Prices(1, 0, 0), "L": Prices(2, 0, 0)}


def asked(n: int) -> list[Query]:
    return [Query(f"q{i}", "d", f"what is {i}*3?", max_new_tokens=12) for i in range(n)]


def engines(paths: dict[str, Path]) -> dict[str, TransformersEngine]:
    return {name: TransformersEngine(stage(paths[name], name), "cpu") for name in ("S", "L")}


@pytest.fixture
def fleet(paths: dict[str, Path]) -> Iterator[dict[str, TransformersEngine]]:
    fleet = engines(paths)
    yield fleet
    for engine in fleet.values():
        engine.close()


Phase = Callable[[tuple[int, int]], bool]
"""Whether a forward pass over ids of this shape, rows and columns, is meant."""


def limit(engine: TransformersEngine, fits: int, fail: Fail, phase: Phase) -> list[int]:
    """Let forward passes fail for more than so many rows; returns where the sizes of those that failed go."""
    failed: list[int] = []

    def hook(_: object, args: object, given: dict[str, Any]) -> None:
        rows, columns = given["input_ids"].shape
        if rows > fits and phase((rows, columns)):
            failed.append(rows)
            fail()

    engine.loaded.model.register_forward_pre_hook(hook, with_kwargs=True)
    return failed


PHASES: dict[str, Phase] = {"reading": lambda shape: shape[1] > 1, "decoding": lambda shape: shape[1] == 1}


def texts(drafts: Sequence[Draft]) -> list[tuple[str, tuple[int, ...]]]:
    return [(draft.text, draft.tokens) for draft in drafts]


@pytest.mark.parametrize("fail", SHORT)
@pytest.mark.parametrize("phase", PHASES)
def test_the_engine_says_that_a_batch_does_not_fit(
    fleet: dict[str, TransformersEngine], fail: Fail, phase: str
) -> None:
    """Whatever torch raises, while reading or decoding, becomes `OutOfMemoryError` and names the stage."""
    limit(fleet["S"], 2, fail, PHASES[phase])
    with pytest.raises(OutOfMemoryError, match="stage 'S' has not enough memory for 3 queries in one call"):
        fleet["S"].generate(queries=asked(3))
    assert len(fleet["S"].generate(asked(2))) == 2


def test_verifying_and_going_on_say_so_too(fleet: dict[str, TransformersEngine]) -> None:
    """The pass that verifies, the passes after it, and those that read again what was forgotten."""
    verifier, queries = fleet["L"], asked(3)
    drafts = fleet["S"].generate(queries)
    read = verifier.verify(queries, drafts)
    limit(verifier, 2, allocator, lambda _: True)
    with pytest.raises(OutOfMemoryError, match="3 queries"):
        verifier.verify(queries, drafts)
    with pytest.raises(OutOfMemoryError, match="3 queries"):
        verifier.continue_(queries, read)


def test_other_errors_pass_unchanged(fleet: dict[str, TransformersEngine]) -> None:
    """A broken forward pass is no shortage of memory, and not translated."""

    def broken() -> None:
        raise RuntimeError("shape mismatch")

    limit(fleet["S"], 0, broken, lambda _: True)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        fleet["S"].generate(asked(1))


def test_the_memory_of_a_failed_batch_is_given_back(
    fleet: dict[str, TransformersEngine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the error is still held, the cache of the batch is gone, and so is what verifying had left."""
    caches: list[weakref.ref[Any]] = []

    def hook(_: object, args: object, given: dict[str, Any]) -> None:
        caches.append(weakref.ref(given[verifier.loaded.cache_argument]))
        if len(caches) == 3:
            try:
                allocator()
            except RuntimeError as error:
                kept = error  # a cycle: the frame holds the error, whose traceback holds the frame
                raise kept from None

    caplog.set_level("DEBUG", "asd")
    verifier, queries, emptied = fleet["L"], asked(2), []
    monkeypatch.setattr(torch, "cpu", type("Device", (), {"empty_cache": lambda: emptied.append(True)}))
    verifier.verify(queries, fleet["S"].generate(queries))
    verifier.loaded.model.register_forward_pre_hook(hook, with_kwargs=True)
    with pytest.raises(OutOfMemoryError) as raised:
        verifier.generate(queries)
    assert "can't allocate memory" in str(raised.value)
    assert "can't allocate memory" in caplog.text
    assert "in _write" in caplog.text
    assert len(caches) == 3
    assert {cache() for cache in caches} == {None}
    assert not verifier._keeper._entries
    assert emptied == [True]


@pytest.mark.parametrize("health", [None, Health()])
@pytest.mark.parametrize("fail", [cuda, allocator, python])
@pytest.mark.parametrize("phase", PHASES)
def test_a_cascade_goes_on_in_smaller_batches(
    fleet: dict[str, TransformersEngine], health: Health | None, fail: Fail, phase: str
) -> None:
    """Drafting, verifying and going on: every text is the one of a machine with room, no query fails."""
    queries = asked(7)
    expected = fleet["L"].generate(queries)
    failed = [
        limit(engine, fits, fail, PHASES[phase]) for engine, fits in zip(fleet.values(), (3, 2), strict=True)
    ]
    cascade = Cascade(fleet, Lossless(("S", "L")), PRICES, health)
    completions = cascade.run(queries, batch_size=7)
    assert texts([c.drafts[-1] for c in completions]) == texts(expected)
    assert all(not c.failures for c in completions)
    assert failed[0] == [7, 4]
    assert max(failed[1]) == 7


def test_collecting_goes_on_in_smaller_batches(fleet: dict[str, TransformersEngine]) -> None:
    """Without a cascade too; sizes that failed are not tried again."""
    queries = asked(9)
    expected = fleet["S"].generate(queries)
    failed = limit(fleet["S"], 2, allocator, PHASES["decoding"])
    found: dict[int, Draft] = {}
    for batch in in_batches(fleet["S"], queries, 8):
        found |= batch
    assert texts([found[i] for i in range(9)]) == texts(expected)
    assert failed == [8, 4]


def test_one_query_that_does_not_fit_fails_alone(fleet: dict[str, TransformersEngine]) -> None:
    """A prompt too long for the memory is a failure of that query; the others have their answers."""
    queries = [*asked(4), Query("long", "d", "x y " * 40, max_new_tokens=4)]
    limit(fleet["S"], 0, cuda, lambda shape: shape[1] > 40)
    prices = {"S": PRICES["S"]}
    with pytest.raises(NoStageLeftError, match="1 of 5 queries") as raised:
        Cascade({"S": fleet["S"]}, FixedStage("S"), prices, Health()).run(queries)
    [(query, [failure])] = raised.value.unanswered
    assert (query.id, failure.kind) == ("long", "OutOfMemoryError")
    assert len(raised.value.completions) == 4


LOADING: list[Fail] = [
    *SHORT,
    lambda: (_ for _ in ()).throw(OSError(errno.ENOMEM, "Cannot allocate memory")),
]


@pytest.mark.parametrize("fail", LOADING)
@pytest.mark.parametrize("where", [AutoModelForCausalLM, AutoTokenizer])
def test_weights_that_do_not_fit_are_named_so(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, fail: Fail, where: type
) -> None:
    """Short of memory while loading: not "damaged files", and nothing to halve a batch for."""
    calls: list[int] = []

    def from_pretrained(*_: object, **__: object) -> None:
        calls.append(1)
        next(iter(fail()), None) if fail is LOADING[-1] else fail()  # type: ignore[call-overload]

    monkeypatch.setattr(where, "from_pretrained", from_pretrained)
    engine = TransformersEngine(stage(paths["S"]), "cpu")
    with pytest.raises(StageTooLargeError, match="do not fit into the memory that is free") as raised:
        engine.load()
    assert "restore the files" not in str(raised.value)
    calls.clear()
    with pytest.raises(NoStageLeftError, match="8 of 8 queries"):
        Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]}, Health()).run(asked(8))
    assert len(calls) == 1


def test_half_loaded_weights_are_let_go(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that did not fit onto its device is not kept alive by the error that says so."""
    models: list[weakref.ref[Any]] = []

    def to(model: Any, *_: object) -> None:
        models.append(weakref.ref(model))
        cuda()

    engine = TransformersEngine(stage(paths["S"]), "cpu")
    monkeypatch.setattr("transformers.PreTrainedModel.to", to)
    with pytest.raises(StageTooLargeError) as raised:
        engine.load()
    assert raised.value.__cause__ is not None
    assert [model() for model in models] == [None]


def drafted(fleet: dict[str, TransformersEngine]) -> SpeculativeEngine:
    return SpeculativeEngine(fleet["S"], fleet["L"], 3)


@pytest.mark.parametrize("short", ["S", "L"])
def test_block_speculation_shrinks_too(fleet: dict[str, TransformersEngine], short: str) -> None:
    """Where two models do not fit together the larger one writes alone; where it does not fit, in halves."""
    queries = asked(6)
    expected = fleet["L"].generate(queries)
    drafts = fleet["S"].generate(queries)
    engine: Verifier = drafted(fleet)
    limit(fleet[short], 2, allocator, lambda _: True)
    found: dict[int, Draft] = {}
    for batch in in_batches(engine, queries, 6):
        found |= batch
    assert texts([found[i] for i in range(6)]) == texts(expected)
    assert (sum(draft.usage.n_drafted for draft in found.values()) > 0) == (short == "L")
    read = [verification for i in range(6) for verification in engine.verify([queries[i]], [drafts[i]])]
    together = 6 if short == "S" else 2
    assert texts(engine.continue_(queries[:together], read[:together])) == texts(expected[:together])


SCRIPT = """
import resource, sys
import torch
from asd.engines.hf.engine import TransformersEngine
from asd.engines.batches import in_batches
from asd.types import Query
from tests.models import stage
from pathlib import Path

torch.set_num_threads(1)
engine = TransformersEngine(stage(Path(sys.argv[1])), "cpu")
queries = [Query(f"q{i}", "d", "ab " * 60 + str(i), max_new_tokens=2) for i in range(256)]
few = engine.generate(queries[:2])
sizes = []
def count(_, args, given):
    sizes.append(given["input_ids"].shape[0])
engine.loaded.model.register_forward_pre_hook(count, with_kwargs=True)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), resource.RLIM_INFINITY))
found = {}
for batch in in_batches(engine, queries, 256):
    found |= batch
assert [found[i].tokens for i in (0, 1)] == [d.tokens for d in few]
print(len(found), sizes[0], min(sizes))
"""


def test_a_machine_that_has_no_more_memory(paths: dict[str, Path]) -> None:
    """With a real limit on the address space a batch of 256 long prompts is answered in smaller ones."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(paths["S"])],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    n_answered, first, least = map(int, done.stdout.split())
    assert (n_answered, first) == (256, 256)
    assert least < 256


def test_a_server_that_is_short_of_memory() -> None:
    """A server's shortage is known by its words; queries that met it are asked again, fewer at a time."""
    queries = asked(4)
    short = refusing(500, '{"error": {"message": "CUDA out of memory. Tried to allocate 2.00 GiB"}}')
    with serving({q.prompt: q.id for q in queries}) as server, stamina.set_testing(True, attempts=1):
        options = {"openai": {"base_url": server.url, "concurrency": 1}}
        with OpenAIEngine(Stage("S", "tiny", PRICES["S"], options=options)) as engine:
            server.faults.extend([None, short, None, short])
            completions = Cascade({"S": engine}, FixedStage("S"), {"S": PRICES["S"]}, Health()).run(queries)
            assert [c.text for c in completions] == [q.id for q in queries]
            assert len(server.asked) == 6
            server.faults.extend([short])
            with pytest.raises(OutOfMemoryError, match="CUDA out of memory"):
                engine.generate(queries[:1])
            server.faults.extend([refusing(500, "internal error")])
            with pytest.raises(UnavailableError):
                engine.generate(queries[:1])


def test_an_error_of_the_tree() -> None:
    """Whoever handles errors of engines handles these too."""
    assert issubclass(StageTooLargeError, OutOfMemoryError)
    assert issubclass(OutOfMemoryError, EngineError)
