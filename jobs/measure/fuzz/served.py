"""A server of this machine alone that answers every request with the same bytes, whatever they are."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

PORT = b"@PORT@"
"""What stands for the port in the files of a case."""


class Server:
    """Answers the requests of a case while the block runs; without bytes nothing answers there."""

    _socket: socket.socket | None = None
    _answer = b""

    def __init__(self, answer: bytes) -> None:
        self._next = answer

    def __enter__(self) -> None:
        Server._answer = self._next

    def __exit__(self, *_: object) -> None:
        Server._answer = b""

    @classmethod
    def port(cls) -> int:
        """The port, of a server that starts with the first call."""
        if cls._socket is None:
            cls._socket = socket.create_server(("127.0.0.1", 0))
            threading.Thread(target=cls._serve, daemon=True).start()
        return int(cls._socket.getsockname()[1])

    @classmethod
    def _serve(cls) -> None:
        assert cls._socket is not None
        while True:
            connection, _ = cls._socket.accept()
            with connection, suppress(OSError):
                connection.settimeout(5)
                connection.recv(2**16)
                connection.sendall(cls._answer)
