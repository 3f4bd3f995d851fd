# SPDX-License-Identifier: Apache-2.0
"""The floor of a transfer: bytes from a TCP socket into fresh memory with huge pages, one process
sending out of its memory and another receiving, as fast as a plain loop can."""

import mmap
import os
import socket
import time

CHUNK = 1 << 20
HUGE = 2 << 20


def set_cubic(sock):
    """What a mover of memory would choose: BBR, where it is the default, halves a local network."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    except OSError:
        pass


def send_memory(port, size, start):
    """In a child: sends filled memory when the pipe gives the start."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    with socket.create_connection(("127.0.0.1", port)) as sock:
        set_cubic(sock)
        os.read(start, 1)
        view = memoryview(memory)
        for offset in range(0, size, CHUNK):
            sock.sendall(view[offset:offset + CHUNK])
        sock.recv(1)


def huge_memory(size):
    """Fresh memory that asks for huge pages."""
    memory = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def floor_ms(size):
    """The time in ms that it takes."""
    listener = socket.create_server(("127.0.0.1", 0))
    start, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            send_memory(listener.getsockname()[1], size, start)
        finally:
            os._exit(0)
    sock = listener.accept()[0]
    # huge pages that a virtual machine had given back to its host cost far more at the first touch
    with huge_memory(size) as warm:
        for offset in range(0, size, HUGE):
            warm[offset] = 1
    memory = huge_memory(size)
    view = memoryview(memory)
    time.sleep(0.2)  # the sender has filled its memory, and waits for the start
    begin = time.monotonic()
    os.write(go, b"x")
    done = 0
    while done < size:
        done += sock.recv_into(view[done:done + min(CHUNK, size - done)])
    elapsed = time.monotonic() - begin
    sock.close()
    listener.close()
    os.close(start)
    os.close(go)
    os.waitpid(child, 0)
    view.release()
    memory.close()
    return elapsed * 1000
