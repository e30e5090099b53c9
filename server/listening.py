"""The sockets that a server listens on, taken before anything is loaded."""

import errno
import socket

from server.core.errors import ConfigurationError

_BACKLOG = 2048


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`; port 0 takes a free one.

    Clients can connect from now on, and wait. Raises `ConfigurationError` for an address that
    can't be had.
    """
    sockets: list[socket.socket] = []
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            # Two sockets may be bound to one port; only one of them can listen.
            one.listen(_BACKLOG)
            one.setblocking(False)
    except OSError as error:
        for one in sockets:
            one.close()
        raise ConfigurationError([_problem(host, port, error)]) from error
    return sockets


def _problem(host: str, port: int, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"host = {host!r}: no such address ({error.strerror}); give another (--host)"
    if error.errno == errno.EADDRINUSE:
        return (
            f"port = {port}: another program listens on port {port} of {host} already; stop it, or "
            "choose another port (--port, SWITCHYARD_PORT)"
        )
    if error.errno == errno.EACCES:
        return f"port = {port}: this user may not listen on it; choose one from 1024 on (--port)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host = {host!r}: this machine doesn't have that address; give another (--host)"
    return f"host = {host!r}, port = {port}: can't listen there: {error.strerror}"
