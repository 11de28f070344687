"""Where training's processes on CPUs meet: on the network of their nodes' addresses.

Gloo takes the address that the machine's name resolves to, which is a loopback one on every Debian
(127.0.1.1 in /etc/hosts): processes on two machines never find each other there.
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
_SIOCGIFADDR = 0x8915  # of linux/sockios.h


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_choose)
        super().on_start(worker_group, backend_config)


@dataclass
class GlooConfig(TorchConfig):
    """Ray's own, whose workers choose their interface first."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets the workers up."""
        return _Backend


def _choose() -> None:
    """Let Gloo use the interface of this node's address, unless somebody has chosen one."""
    address = ray.util.get_node_ip_address()
    if _VARIABLE not in os.environ and not ipaddress.ip_address(address).is_loopback:
        name = interface_of(address)
        if name is not None:
            os.environ[_VARIABLE] = name


def interface_of(address: str) -> str | None:
    """The name of the interface with an IPv4 address; None where none has it, or off Linux."""
    try:
        from fcntl import ioctl
    except ImportError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None
