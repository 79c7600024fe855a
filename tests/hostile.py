"""Programs that mean harm, for the sandbox's tests. Each is to be asked for `f(2) == 4` and must not pass.

`{secret}` and `{target}` are paths of the machine outside, `{port}` is a listening socket there. A program
that reaches the secret returns it, which the tests would accept: passing is getting out.
"""

from __future__ import annotations

from textwrap import dedent

_PROGRAMS = {
    "fork bomb": """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """,
    "leaves a daemon behind": """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    time.sleep(0.05)
            os._exit(0)
        f = lambda x: None
    """,
    "fills the scratch folder": """
        def f(x):
            for i in range(10_000):
                with open(f"/tmp/{{i}}", "wb") as file:
                    file.write(b"x" * (1 << 20))
    """,
    "fills shared memory": """
        def f(x):
            with open("/dev/shm/x", "wb") as file:
                file.write(b"x" * (1 << 30))
            return x * x
    """,
    "writes to the machine": """
        open({target!r}, "w").write("escaped")
        f = lambda x: x * x
    """,
    "writes through a symlink": """
        import os
        os.symlink({target!r}, "/tmp/link")
        open("/tmp/link", "w").write("escaped")
        f = lambda x: x * x
    """,
    "writes through a shell": """
        import subprocess
        subprocess.run("echo escaped > " + {target!r}, shell=True, check=True)
        f = lambda x: x * x
    """,
    "overwrites the installation": """
        import os
        open(os.__file__, "a").write("pass")
        f = lambda x: x * x
    """,
    "removes every file": """
        import os, shutil
        shutil.rmtree("/", ignore_errors=True)
        assert not os.path.exists(os.__file__)
        f = lambda x: x * x
    """,
    "reads a file of the user": """
        def f(x):
            return open({secret!r}).read()
    """,
    "lists the home folder": """
        import os
        def f(x):
            assert os.listdir(os.path.dirname({secret!r}))
            return x * x
    """,
    "reads the environment": """
        import os
        def f(x):
            return os.environ["ASD_SECRET"]
    """,
    "reads its parent's environment": """
        import os
        def f(x):
            return open(f"/proc/{{os.getppid()}}/environ").read().split("ASD_SECRET=")[1].split(chr(0))[0]
    """,
    "looks at other processes": """
        import os
        def f(x):
            assert [name for name in os.listdir("/proc") if name.isdigit()]
            return x * x
    """,
    "connects to the machine": """
        import socket
        def f(x):
            socket.create_connection(("127.0.0.1", {port}), timeout=1)
            return x * x
    """,
    "connects to the world": """
        import socket
        def f(x):
            socket.create_connection(("1.1.1.1", 53), timeout=1)
            return x * x
    """,
    "kills its parent": """
        import os
        def f(x):
            os.kill(os.getppid(), 9)
    """,
    "kills everything": """
        import os
        os.kill(-1, 9)
    """,
    "stops everything": """
        import os, signal
        def f(x):
            os.kill(-1, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
    """,
    "prints without end": """
        def f(x):
            while True:
                print("x" * 1_000_000)
    """,
    "complains without end": """
        import os
        def f(x):
            while True:
                os.write(2, b"x" * 1_000_000)
    """,
    "replies without end": """
        import os
        def f(x):
            while True:
                for fd in range(3, 20):
                    try:
                        os.write(fd, b"x" * 1_000_000)
                    except OSError:
                        pass
    """,
    "returns too much": """
        def f(x):
            return "x" * 300_000_000
    """,
    "returns without end": """
        import itertools
        def f(x):
            return itertools.count()
    """,
    "returns a nest": """
        def f(x):
            nest = []
            for _ in range(100_000):
                nest = [nest]
            return nest
    """,
    "unpacks a bomb": """
        import zlib
        def f(x):
            bomb = zlib.compress(zlib.compress(bytes(1 << 28)))
            return len(zlib.decompress(zlib.decompress(bomb))) and "x" * (1 << 28)
    """,
    "sleeps for ever": """
        import time
        def f(x):
            time.sleep(1e6)
    """,
    "loops for ever": """
        def f(x):
            while True:
                pass
    """,
    "swallows signals": """
        import signal
        for number in set(signal.Signals) - {{signal.SIGKILL, signal.SIGSTOP}}:
            signal.signal(number, signal.SIG_IGN)
        def f(x):
            while True:
                try:
                    while True:
                        pass
                except BaseException:
                    pass
    """,
    "waits for input": """
        def f(x):
            return input()
    """,
    "exhausts memory": """
        def f(x):
            hoard = []
            while True:
                hoard.append(bytearray(1 << 24))
    """,
    "exhausts threads": """
        import threading, time
        def f(x):
            for _ in range(10_000):
                threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
    """,
    "exhausts file descriptors": """
        import os
        def f(x):
            return [os.open("/dev/null", os.O_RDONLY) for _ in range(10_000)]
    """,
    "raises its limits": """
        import resource
        def f(x):
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return x * x
    """,
    "becomes root": """
        import os
        def f(x):
            os.setuid(0)
            return x * x
    """,
    "makes a namespace of its own": """
        import ctypes
        def f(x):
            assert ctypes.CDLL(None).unshare(0x10000000) == 0
            return x * x
    """,
    "mounts": """
        import ctypes
        def f(x):
            assert ctypes.CDLL(None).mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0
            return x * x
    """,
    "traces the first process": """
        import ctypes
        def f(x):
            assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0
            return x * x
    """,
    "crashes the interpreter": """
        import ctypes
        def f(x):
            ctypes.string_at(0)
    """,
    "imports what is installed": """
        import msgspec
        f = lambda x: x * x
    """,
    "exits with success": """
        import os
        os._exit(0)
    """,
    "exits with success when asked": """
        import sys
        def f(x):
            sys.exit(0)
    """,
    "prints a verdict": """
        print('{{"failure": ""}}', flush=True)
        f = lambda x: None
    """,
    "writes a verdict everywhere": """
        import os
        for fd in range(20):
            try:
                os.write(fd, b'{{"failure": ""}}' + bytes([10]))
            except OSError:
                pass
        f = lambda x: None
    """,
    "patches what tests rely on": """
        import builtins, sys
        builtins.AssertionError = type("Fine", (BaseException,), {{"__new__": lambda cls: sys.exit(0)}})
        builtins.isinstance = lambda *args: True
        sys.excepthook = lambda *args: None
        f = lambda x: None
    """,
    "returns what equals everything": """
        class Same:
            __eq__ = lambda self, other: True
            __hash__ = None
        f = lambda x: Same()
    """,
    "returns a number that equals everything": """
        class Same(int):
            __eq__ = lambda self, other: True
            __hash__ = None
        f = lambda x: Same(5)
    """,
    "reaches for the tests in the stack": """
        import sys
        def f(x):
            frame = sys._getframe()
            while frame:
                for name in ("tests", "job", "expected"):
                    if name in frame.f_locals:
                        return 4
                frame = frame.f_back
    """,
    "redefines what the tests use": """
        abs = lambda x: 4
        isinstance = lambda *args: True
        f = lambda x: None
    """,
    "raises what cannot be shown": """
        class Unspeakable(Exception):
            def __str__(self):
                raise Unspeakable
        def f(x):
            raise Unspeakable
    """,
}


def hostile_programs(secret: str, target: str, port: int) -> dict[str, str]:
    """All of them by name, aimed at these."""
    return {
        name: dedent(program).format(secret=secret, target=target, port=port)
        for name, program in _PROGRAMS.items()
    }


NAMES = tuple(_PROGRAMS)
