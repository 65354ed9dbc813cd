"""Runs something in a child that is killed at its n-th call to the disk: every n, until it comes through."""

import os
import signal

CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


def killed_at_every_call(act, setup, check):
    """Call act in a child, killed at its 1st, 2nd, … call that changes the disk; setup before and check after each.

    Gives how many children were killed.
    """
    kills = 0
    while True:
        setup()
        child = os.fork()
        if child == 0:
            try:
                kill_at(kills + 1)
                act()
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        check()
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return kills
        kills += 1


def kill_at(number):
    """Kill this process at such a call."""
    left = number

    def counted(call):
        def wrapper(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
