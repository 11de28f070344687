"""Make Gloo, which connects training processes on CPUs, use the network of the nodes' addresses.

By default, Gloo uses the address that the machine's name resolves to. On every Debian this is a
loopback address (127.0.1.1 in /etc/hosts), so processes on two machines never find each other.
"""

import ipaddress
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

_VARIABLE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # from linux/sockios.h


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_choose)
        super().on_start(worker_group, backend_config)


@dataclass
class GlooConfig(TorchConfig):
    """Ray's TorchConfig, except that each worker first chooses its network interface."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """The class that sets up the workers."""
        return _Backend


def _choose() -> None:
    """Let Gloo use the interface of this node's address, unless the variable is set already."""
    address = ray.util.get_node_ip_address()
    if _VARIABLE not in os.environ and not ipaddress.ip_address(address).is_loopback:
        name = interface_of(address)
        if name is not None:
            os.environ[_VARIABLE] = name


def interface_of(address: str) -> str | None:
    """Return the name of the interface with an IPv4 address; None without one, or not on Linux."""
    try:
        from fcntl import ioctl
    except ImportError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # the interface has no address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None
