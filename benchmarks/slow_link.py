"""Connect two network namespaces by a link that holds each packet back for a time.

Kernels without netem cannot delay packets, so two TAP devices are joined by this process. It ends with its stdin.

Run: python benchmarks/slow_link.py PID_A DEVICE_A PID_B DEVICE_B SECONDS
"""

import fcntl
import os
import select
import struct
import sys
from collections import deque
from time import monotonic

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME_BYTES = 65536


def open_tap(pid: int, name: str) -> int:
    """Make a TAP device in the network namespace of a process; return its file descriptor."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    set_namespace(there)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    set_namespace(home)
    return tap


def set_namespace(descriptor: int) -> None:
    """Enter a network namespace; ``os.setns`` exists from Python 3.12 on."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), "setns")


def main() -> None:
    """Carry frames from each device to the other until stdin is closed."""
    pid_a, name_a, pid_b, name_b, seconds = sys.argv[1:]
    taps = (open_tap(int(pid_a), name_a), open_tap(int(pid_b), name_b))
    delay_s, held = float(seconds), deque[tuple[float, int, bytes]]()
    print("ready", flush=True)
    while True:
        wait_s = max(0.0, held[0][0] - monotonic()) if held else None
        ready, _, _ = select.select([*taps, sys.stdin], [], [], wait_s)
        if sys.stdin in ready:
            return
        for tap in taps:
            if tap in ready:
                other = taps[1] if tap == taps[0] else taps[0]
                held.append((monotonic() + delay_s, other, os.read(tap, FRAME_BYTES)))
        while held and held[0][0] <= monotonic():
            _, tap, frame = held.popleft()
            try:
                os.write(tap, frame)
            except OSError:  # the device is down: the frame is lost, as on a wire
                continue


if __name__ == "__main__":
    main()
