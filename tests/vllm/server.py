"""A vLLM server process on loopback, which tests kill and start again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

CONTEXT = 256
BLOCK = 32
PATIENCE_S = 900.0
QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_HOST_IP": "127.0.0.1",
}
ARGUMENTS = (
    "--served-model-name small --host 127.0.0.1 --dtype float32 --seed 0 --enforce-eager "
    "--kv-cache-memory-bytes 67108864 "
    f"--max-model-len {CONTEXT} --max-num-seqs 8 --block-size {BLOCK} --generation-config vllm "
    "--enable-prompt-tokens-details"
).split()


class VllmServer:
    """One server process on a port of its own; it may be killed and started again."""

    def __init__(self, model: str, log: Path, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._model = model
        self._log = log
        self._arguments = (*ARGUMENTS, *arguments)

    def start(self) -> None:
        self.begin()
        self.wait()

    def begin(self) -> None:
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", self._model]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *self._arguments],
                env=os.environ | QUIET,
                stdout=log,
                stderr=log,
                start_new_session=True,  # vLLM works in a child of the server, which must die with it
            )

    def wait(self) -> None:
        began = time.monotonic()
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() - began > PATIENCE_S:
                self.kill()
                pytest.fail(f"the server did not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.5)

    def kill(self) -> None:
        """No farewell: connections break, then nobody listens."""
        with suppress(ProcessLookupError):  # it did not start
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)

    def n_written(self) -> int:
        """Tokens that it has generated, as it counts them itself."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as reply:
            rows = re.findall(rb"^vllm:generation_tokens_total\S* (\S+)$", reply.read(), re.MULTILINE)
        return int(sum(map(float, rows)))

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except (URLError, OSError):
            return False
