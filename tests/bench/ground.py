"""Where the private servers live: one temporary folder, free loopback ports, and nothing left behind."""

import ctypes
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

START_SECONDS = 30
STOP_SECONDS = 10


class ServerError(Exception):
    """A server did not start."""


class Ground:
    """The folder, the unprivileged user and every process started; closing it leaves nothing behind."""

    def __init__(self) -> None:
        self.user = _unprivileged()
        self.processes: list[tuple[subprocess.Popen, signal.Signals]] = []
        self.folder = Path(tempfile.mkdtemp(prefix="hearth-bench-"))
        if self.user:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self.folder.chmod(0o711)

    def close(self) -> None:
        # A second Ctrl-C must not leave half of it running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for process, stop in reversed(self.processes):
            _end(process, stop)
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self, pid: int) -> None:
        """Ends one server before the others."""
        [ended] = [entry for entry in self.processes if entry[0].pid == pid]
        _end(*ended)
        self.processes.remove(ended)

    def write(self, name: str, text: str) -> Path:
        """A file that the servers may read, and nobody else."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)
        return path

    def run(self, *command: str | Path, **more) -> str:
        """Runs a program to its end, as the unprivileged user."""
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=120, **self._identity(), **more
        )
        if done.returncode != 0:
            raise ServerError(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(
        self, name: str, *command: str | Path, ready: Callable[[], object], stop=signal.SIGTERM, own_user=False
    ) -> int:
        """Starts a server and waits until `ready` raises no more. Answers its process id."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                # Ctrl-C is for us alone: the servers end in our order. They end as well if we are killed.
                start_new_session=True, preexec_fn=lambda: _end_with_parent(stop),
                **({} if own_user else self._identity()),
            )  # fmt: skip
        self.processes.append((process, stop))
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                ready()
                return process.pid
            except Exception as error:
                if process.poll() is not None or time.monotonic() > until:
                    last = log.read_text(errors="replace")[-2000:]
                    raise ServerError(f"{name} did not start: {error}\n{last}") from error
                time.sleep(0.05)

    def _identity(self) -> dict:
        if not self.user:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}


def free_port() -> int:
    """A free port below the range that outgoing connections take theirs from."""
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise ServerError("no free port")


def dial(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=2).close()


def get(url: str) -> None:
    # Loopback never goes through a proxy, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(url, timeout=2).close()


def first_match(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "unknown"


def _end(process: subprocess.Popen, stop: signal.Signals) -> None:
    for attempt in (stop, signal.SIGQUIT, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(attempt)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue


def _unprivileged() -> pwd.struct_passwd | None:
    """Who runs the servers that refuse root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerError("there is neither a user postgres nor nobody")


def _end_with_parent(stop: signal.Signals) -> None:
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, int(stop))
