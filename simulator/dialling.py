"""The TCP connection under a link: made here, so that its source address can be chosen and a dial be given up."""

import asyncio
import errno
import os
import socket
import sys
from ipaddress import ip_address
from typing import Any

_IP_BIND_ADDRESS_NO_PORT = 24
"""Linux: `bind` to an address takes no port yet. Python names it only from 3.12 on."""


async def addresses(host: str, port: int, source: str | None) -> list[tuple[socket.AddressFamily, Any]]:
    """Where a host may be reached, from a source address if one is given; a thread is asked only for names."""
    try:
        version = ip_address(host).version
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family_wanted = None if source is None else _family(source)
        return [(family, address) for family, _, _, _, address in found if family_wanted in {None, family}]
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]


def open_socket(family: socket.AddressFamily, source: str | None) -> socket.socket:
    """A socket that is ready to connect.

    Raises:
        OSError: the source is no address of this machine, or of another family; or no socket is left.
    """
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            if sys.platform == "linux":
                # The port is chosen when it connects, so that the same one can serve for other destinations too.
                opened.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            opened.bind((source, 0))
    except BaseException:
        opened.close()
        raise
    return opened


async def connect_socket(connecting: socket.socket, address: Any) -> None:
    """What `loop.sock_connect` does; uvloop's asks a thread to resolve even a numeric address, an eighth of a dial's time.

    Raises:
        OSError: the connection was not made.
    """
    code = connecting.connect_ex(address)
    if code == errno.EINPROGRESS:
        loop, writable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(connecting, writable.set)
        try:
            await writable.wait()
        finally:
            loop.remove_writer(connecting)
        code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
