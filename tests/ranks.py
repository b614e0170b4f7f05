"""Several processes as torchrun starts them, forked: what is imported and made is there already."""

import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch


def several(world: int, work: Callable[[int], Any], seconds: float = 120) -> list[int]:
    """The exit codes of `world` processes that do `work(rank)`; an int that it returns is one.

    One that takes longer is killed and fails the test.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_child(rank, world, port, work) for rank in range(world)]
    codes: dict[int, int] = {}
    until = time.monotonic() + seconds
    while len(codes) < world and time.monotonic() < until:
        for child in children:
            if child not in codes and (found := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(found[1])
        time.sleep(0.02)
    late = [child for child in children if child not in codes]
    for child in late:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert not late, f"{len(late)} of {world} processes hang; the others ended with {codes}"
    return [codes[child] for child in children]


def _child(rank: int, world: int, port: int, work: Callable[[int], Any]) -> int:
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(world),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        found = work(rank)
        code = found if isinstance(found, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
