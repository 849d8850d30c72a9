"""Processor time of the servers, read from /proc. Linux only."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1
# A process that ends and is waited for during a scan is missed by it: the scan is done again, at most this often.
SCANS = 50


@dataclass(frozen=True)
class Snapshot:
    """Seconds of processor time used so far, by family (a process and its children) and by the whole machine."""

    at: float
    families: dict[str, float]
    machine: float
    stolen: float


@dataclass(frozen=True)
class Usage:
    """What was used between two snapshots."""

    seconds: float
    families: dict[str, float]
    # Share of the machine that went to programs which are no part of the measurement.
    others: float
    # Share of the machine that the host took away.
    stolen: float


def snapshot(roots: dict[str, int]) -> Snapshot:
    """`roots` names the first process of each family."""
    for _ in range(SCANS):
        at, waited, families = time.monotonic(), _waited(roots), _families(roots)
        if waited == _waited(roots):
            break
    machine, stolen = _machine()
    return Snapshot(at, families, machine, stolen)


def usage(before: Snapshot, after: Snapshot) -> Usage:
    """What was used between two snapshots."""
    seconds = after.at - before.at
    families = {name: used - before.families.get(name, 0.0) for name, used in after.families.items()}
    others = after.machine - before.machine - sum(families.values())
    whole = seconds * CORES
    return Usage(seconds, families, max(0.0, others / whole), (after.stolen - before.stolen) / whole)


def _waited(roots: dict[str, int]) -> list[int]:
    """Time of the ended children that each root has waited for."""
    return [sum(_stat(pid)[2:]) for pid in roots.values()]


def _stat(pid: int) -> tuple[int, int, int, int]:
    """Parent; ticks of its own; of its ended children, user and system."""
    line = Path(f"/proc/{pid}/stat").read_text()
    # The command name is in brackets and may hold anything.
    fields = line[line.rindex(")") + 2 :].split()
    own_user, own_system, waited_user, waited_system = (int(ticks) for ticks in fields[11:15])
    return int(fields[1]), own_user + own_system, waited_user, waited_system


def _machine() -> tuple[float, float]:
    """Busy and stolen time of all cores."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, stolen = (int(ticks) for ticks in first[1:9])
    return (user + nice + system + irq + softirq) / TICKS_A_SECOND, stolen / TICKS_A_SECOND


def _families(roots: dict[str, int]) -> dict[str, float]:
    """Own time of every process, and of its ended children that were waited for, summed by family.

    A PostgreSQL backend that ends moves from its own line to the postmaster's, so the sum never loses it.
    """
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            pid = int(entry.name)
            try:
                parents[pid], *ticks = _stat(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # It ended while we looked.
            used[pid] = sum(ticks)
    names = {pid: name for name, pid in roots.items()}
    families = dict.fromkeys(roots, 0.0)
    for pid, ticks in used.items():
        ancestor = pid
        while ancestor in parents and ancestor not in names:
            ancestor = parents[ancestor]
        if ancestor in names:
            families[names[ancestor]] += ticks / TICKS_A_SECOND
    # This program is the ancestor of all and waits for every load run; only its own time counts.
    families["bench"] = sum(os.times()[:2])
    return families
