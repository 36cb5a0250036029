"""The interface that carries an address of this machine; gangs over two hosts are in tests/integration/hosts."""

from __future__ import annotations

import socket

import psutil

from orchestrator.interface import interface_of


def test_every_address_of_this_machine_has_its_interface() -> None:
    here = [
        (found.address, name)
        for name, addresses in psutil.net_if_addrs().items()
        for found in addresses
        if found.family in (socket.AF_INET, socket.AF_INET6)
    ]
    assert ("127.0.0.1", interface_of("127.0.0.1")) in here
    for address, name in here:
        if [other for other, _ in here].count(address) == 1:
            assert interface_of(address.partition("%")[0]) == name


def test_an_address_of_another_machine_has_none() -> None:
    assert interface_of("192.0.2.1") is None  # RFC 5737: nobody's
    assert interface_of("127.0.0") is None
