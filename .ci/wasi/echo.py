#!/usr/bin/env python3
"""echo.py WASMTIME MODULE: the server echoes to several clients at once, on a socket that the host has opened for it."""

import socket
import subprocess
import sys
import time

CONNECTIONS = 8
MESSAGE = bytes(index % 251 for index in range(1 << 20))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(port, server):
    """Tries until the host has opened the socket."""
    while server.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            time.sleep(0.01)
    sys.exit(f"the server has ended: {server.returncode}")


def receive(client, count):
    received = bytearray()
    while len(received) < count:
        part = client.recv(count - len(received))
        if not part:
            sys.exit(f"the stream ended after {len(received)} bytes")
        received += part
    return received


def main():
    wasmtime, module = sys.argv[1:]
    port = free_port()
    listen = ["-S", "preview2=n", "-S", f"tcplisten=127.0.0.1:{port}"]
    server = subprocess.Popen([wasmtime, "run", *listen, module, str(CONNECTIONS)])
    try:
        clients = [connect(port, server) for _ in range(CONNECTIONS)]
        # Parts that fit into the buffers of the sockets on both sides: neither side waits for the other.
        for begin in range(0, len(MESSAGE), 1 << 15):
            part = MESSAGE[begin : begin + (1 << 15)]
            for client in clients:
                client.sendall(part)
            for client in clients:
                if receive(client, len(part)) != part:
                    sys.exit("what comes back is something else")
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            if client.recv(1):
                sys.exit("more comes back than was sent")
        status = server.wait(timeout=60)
        print(f"{CONNECTIONS} connections, {len(MESSAGE)} bytes each")
        sys.exit(status)
    finally:
        server.kill()


main()
