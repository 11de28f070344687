"""The network interface that has an address."""

import socket

from pipelines.train.gloo import interface_of


def test_an_address_is_of_its_interface() -> None:
    name = interface_of("127.0.0.1")
    assert name in {name for _, name in socket.if_nameindex()}
    assert str(name).startswith("lo")
    assert interface_of("203.0.113.7") is None
