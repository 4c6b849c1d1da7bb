"""Addresses of this machine, and the network interface that leads to another."""

from __future__ import annotations

import ipaddress
import socket

from engine.hardware.host import interfaces


def own_addresses() -> tuple[str, ...]:
    """The addresses that other machines may know this one by, IPv4 first."""
    found = [ipaddress.ip_address(address) for addresses in interfaces().values() for address in addresses]
    usable = [address for address in found if not (address.is_link_local or address.is_loopback)]
    usable.sort(key=lambda address: address.version)
    return tuple(dict.fromkeys(map(str, usable)))


def interface_towards(address: str) -> str | None:
    """The interface by which this machine reaches ``address``; None where that is not known."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # of a datagram socket: chooses the way, and sends nothing
            source = str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return None
    held = [name for name, addresses in interfaces().items() if source in addresses]
    if not held and ipaddress.ip_address(source).is_loopback:  # all of 127.0.0.0/8 is on it, whatever it lists
        held = [name for name, addresses in interfaces().items() if any(_is_loopback(one) for one in addresses)]
    return held[0] if held else None


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
