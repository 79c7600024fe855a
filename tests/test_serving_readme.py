"""The newcomer's path of the server's README, as it stands there: start, ask, see, cap, read the books."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "asd" / "serving" / "README.md"


def blocks(language: str) -> list[str]:
    section = README.read_text("utf8").partition("## Five minutes")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [[sys.executable, "-m", *words] if words[0] == "asd" else words for words in found]


@pytest.mark.slow
def test_the_path_of_a_newcomer_can_be_walked(tmp_path: Path) -> None:
    """Every command and the program, in their order; only the port is another one."""
    serve, curl, *books = commands()
    [program] = blocks("py")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(README.parents[2])}
    options = {"cwd": tmp_path, "env": environment, "text": True}
    with subprocess.Popen([*serve, "--port", "0"], stderr=subprocess.PIPE, **options) as server:  # type: ignore[call-overload]
        try:
            url = re.search(r"http://(127.0.0.1:\d+)/v1", server.stderr.readline())
            assert url is not None
            here = lambda text: text.replace("127.0.0.1:8000", url[1])  # noqa: E731

            def run(*command: str) -> str:
                done = subprocess.run([*map(here, command)], capture_output=True, check=True, **options)
                return str(done.stdout)

            reply = json.loads(run(*curl, "--retry", "20", "--retry-connrefused"))
            assert reply["choices"][0]["message"]["content"].endswith(":42")
            assert ":42 " in run(sys.executable, "-c", program)
            with urllib.request.urlopen(f"http://{url[1]}/") as page:
                assert "all keys, today" in page.read().decode()
            key, spent = (run(*command) for command in books)
            assert "asd-" in key
            assert "local" in spent
        finally:
            server.terminate()
            assert server.wait(60) == 0
