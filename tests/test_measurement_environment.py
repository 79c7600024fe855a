"""The hardware key and the readings around a run."""

import platform
import re
from pathlib import Path

import pytest

from asd.errors import ConfigError
from asd.measurement import environment
from asd.measurement.environment import code_revision, hardware_key, read_environment

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
