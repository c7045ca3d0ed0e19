"""Whether a process of this host lives, told apart from zombies and from a new one with the same pid."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def host_id() -> str:
    """Names the space in which pids mean the same: host, boot and pid namespace."""
    parts = [socket.gethostname()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists():
        parts += [boot.read_text().strip(), str(namespace.stat().st_ino)]
    return "|".join(parts)


def start_time(pid: int) -> str:
    """When the process began, in ticks since boot; empty if it is gone or a zombie, or without /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The name, in parentheses, may hold blanks; after it come the state and, 19 on, the start: proc(5).
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def alive(pid: int, started: str) -> bool:
    """Whether the process of this pid and start time still runs. Without /proc, zombies count as alive."""
    if Path("/proc/self/stat").exists():
        return start_time(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
