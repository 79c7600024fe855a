"""The hardware key and the readings around a run."""

import platform
import re
from pathlib import Path

import pytest

from asd.errors import ConfigError
from asd.measurement import environment
from asd.measurement.environment import (
    accelerators,
    code_revision,
    hardware_key,
    omp_threads,
    read_environment,
    usable_cores,
)

SMI = {
    "name": "NVIDIA H100 80GB HBM3\nNVIDIA H100 80GB HBM3",
    "driver_version": "550.1\n550.1",
    "temperature.gpu,clocks.sm,power.draw": "41, 1980, 120.5\n40, 1980, [N/A]",
}


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch):
    """A machine whose nvidia-smi lists two H100."""
    monkeypatch.setattr(environment, "_nvidia_smi", SMI.__getitem__)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch):
    """A machine without nvidia-smi."""
    monkeypatch.setattr(environment, "_nvidia_smi", lambda _fields: None)


def test_cpus_of_one_architecture_share_a_key(no_gpu: None):
    """The model of the CPU is warned about, not part of the key."""
    key = hardware_key("cpu", count=1, dtype="float32", batch=1, engine="transformers")
    machine = platform.machine().replace("_", "-").lower()
    assert key.slug == f"cpu-{machine}-x1-float32-b1-transformers"


def test_a_gpu_is_named_by_its_model(two_gpus: None):
    """Two kinds of GPU must not share a baseline."""
    key = hardware_key("cuda:0", count=2, dtype="bfloat16", batch=4, engine="vllm")
    assert key.slug == "nvidia-h100-80gb-hbm3-x2-bfloat16-b4-vllm"


def test_a_gpu_asked_for_and_not_there_is_refused(no_gpu: None):
    """No silent fallback to the CPU."""
    with pytest.raises(ConfigError, match="device cuda"):
        hardware_key("cuda", count=1, dtype="float32", batch=1, engine="transformers")


def test_gpu_readings_carry_their_units(two_gpus: None):
    """What a GPU does not report is left out, not guessed."""
    seen = read_environment()
    assert seen.driver == "550.1"
    assert len(seen.devices) == 2
    assert seen.gauges["gpu0_temperature_c"] == 41
    assert seen.gauges["gpu1_sm_clock_mhz"] == 1980
    assert "gpu0_power_w" in seen.gauges
    assert "gpu1_power_w" not in seen.gauges


def test_a_machine_without_gpu_has_no_driver(no_gpu: None):
    """Absent is absent."""
    seen = read_environment()
    assert (seen.driver, seen.devices) == (None, ())
    assert seen.python == platform.python_version()
    assert seen.packages["numpy"]
    assert seen.cores >= 1


def test_code_revision_is_the_commit_of_the_checkout(tmp_path: Path):
    """Forty hex digits here; unknown outside git."""
    assert re.fullmatch(r"[0-9a-f]{40}", code_revision(Path(__file__).parent).commit)
    outside = code_revision(tmp_path)
    assert (outside.commit, outside.dirty) == ("unknown", False)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a program that stands for nvidia-smi."""
    monkeypatch.setattr(environment, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(environment, "_silent", set())
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def write(content: bytes) -> Path:
        program = tmp_path / "nvidia-smi"
        program.write_bytes(content)
        program.chmod(0o755)
        return program

    return write


@pytest.mark.parametrize(
    "content",
    [
        b"#!/bin/sh\nexec sleep 30\n",
        b"#!/bin/sh\nsleep 30\n",  # its child outlives it and holds the pipe
        b"#!/bin/sh\necho NVIDIA H100; exit 9\n",
        b"#!/bin/sh\necho Failed to initialize NVML: Driver/library version mismatch\n",
        b"#!/bin/sh\necho No devices were found\n",
        b"#!/bin/sh\nprintf '\\377\\376\\000garbage\\001,,,\\n1,2,3,4,5\\n'\n",
        b"#!/bin/sh\n",
        b"#!/no/such/interpreter\n",
        b"\x7fELF damaged",
    ],
)
def test_an_nvidia_smi_that_does_not_work_is_as_none(nvidia_smi, content: bytes):
    """Hanging, failing, printing noise or no program at all: no GPU, and never an exception."""
    nvidia_smi(content)
    assert accelerators() == ()
    seen = read_environment()
    assert seen.devices == ()
    assert not any(name.startswith("gpu") for name in seen.gauges)
    with pytest.raises(ConfigError, match="no GPU is listed"):
        hardware_key("cuda", count=1, dtype="float32", batch=1, engine="transformers")


def test_a_program_that_hangs_is_waited_for_once(
    nvidia_smi, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """A run asks several times; only the first question costs the wait, and the log says why."""
    asked = tmp_path / "asked"
    nvidia_smi(f"#!/bin/sh\necho once >> {asked}\nexec sleep 30\n".encode())
    for _ in range(3):
        assert accelerators() == ()
    assert asked.read_text() == "once\n"
    assert "nvidia-smi did not answer within 0.3 s" in caplog.text


def test_the_names_of_gpus_are_read_from_what_nvidia_smi_prints(nvidia_smi):
    """One line a GPU."""
    nvidia_smi(b"#!/bin/sh\necho NVIDIA H100 80GB HBM3\necho Tesla V100-SXM2-16GB\necho NVIDIA TITAN V\n")
    assert accelerators() == ("NVIDIA H100 80GB HBM3", "Tesla V100-SXM2-16GB", "NVIDIA TITAN V")


VALUES = {"3": 3, " 4 ": 4, "4,3,2": 4, "2,": 2, "": None, ",": None, "1.0": None, "0": None, "-2": None}
VALUES |= {"many": None, "\u0663": None, "9" * 30: None, None: None}


@pytest.mark.parametrize(("value", "threads"), VALUES.items())
def test_threads_are_read_as_openmp_reads_them(
    monkeypatch: pytest.MonkeyPatch, value: str | None, threads: int | None
):
    """A list nests and its first number counts; what is no positive whole number is as if unset."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert omp_threads() == threads
    monkeypatch.delitem(environment.sys.modules, "torch", raising=False)
    assert read_environment().threads == (threads or usable_cores())
