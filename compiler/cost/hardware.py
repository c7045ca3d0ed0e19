"""What the kinds of hardware of a deployment can hold and do, a device (one rank) at a time.

Rates are what vendors promise, dense, without sparsity, and links count one direction; what is reached of them is for
`time_model` to say. Sources: the data sheets "NVIDIA A100 Tensor Core GPU" (2021), "NVIDIA H100 Tensor Core GPU"
(2023), "NVIDIA H200 Tensor Core GPU" (2024), "NVIDIA DGX B200" (2024) and "NVIDIA L40S" (2023); network, host memory
and disks are those of the DGX of that generation, shared out over its eight GPUs, and for L40S network and host memory
those of a common server. Memory is not what the box says but what CUDA reports as total, which is less by ECC and by
what the driver keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rldsl.compiler.ops import Tier

GIB = 1 << 30
GB = 10**9
TERA = 10**12


class TierFacts(NamedTuple):
    """A tier below a device: bytes/s to it and back, and a device's share of its bytes."""

    tier: Tier
    rate: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One device and its surroundings: bytes, FLOP/s, bytes/s in one direction.

    `memory` is the device's own, None where nobody has said; `usable` the part of it that a plan may fill, the rest
    being left to fragmentation. `host_memory` is the next tier, reached over `host_link`: a GPU's share of the host's
    memory, or for a processor its disk. Below the host's memory lies a disk: `disk_memory` is a GPU's share of it, 0
    where nobody has said that there is one, `disk_link` what the host reads and writes of it for one GPU. `link`
    joins the `per_node` devices of a node, `network` the nodes.
    """

    name: str
    memory: int | None
    bf16: float
    fp32: float
    bandwidth: float
    link: float
    host_link: float
    host_memory: int
    network: float
    per_node: int = 8
    usable: float = 0.95
    disk_link: float = 0.0
    disk_memory: int = 0

    @property
    def tiers(self) -> tuple[TierFacts, ...]:
        """What there is below the device's memory, the nearest first; what goes to one crosses those before it."""
        if self.name == "cpu":
            return (TierFacts(Tier.DISK, self.host_link, self.host_memory),)
        host = TierFacts(Tier.HOST, self.host_link, self.host_memory)
        return (host, TierFacts(Tier.DISK, self.disk_link, self.disk_memory)) if self.disk_memory else (host,)

    @property
    def budget(self) -> int | None:
        """Bytes a plan may use of a device, None where its memory is not known."""
        return None if self.memory is None else int(self.memory * self.usable)

    def flops(self, precision: str) -> float:
        """FLOP/s at `precision`, `bf16` or `fp32`."""
        return self.bf16 if precision == "bf16" else self.fp32

    def link_between(self, ranks: int, stride: int = 1) -> float:
        """Bytes/s of a rank in a collective of `ranks` ranks, every `stride`-th of the cluster.

        Rings beyond a node cross the network once a node and ring, so the members of a node share its adapters.
        """
        if ranks * stride <= self.per_node:
            return self.link
        members = max(1, self.per_node // stride)
        return min(self.link, self.network * min(members, ranks))


# A drive of 3.84 TB, of which a DGX has one for each GPU, one for two in the A100 of 320 GB. The rate is assumed: what
# such a drive for PCIe 4 promises in sequential writing, which is the slower way.
_DRIVE, _DRIVE_LINK = 3840 * GB, 4 * GB

_A100 = Hardware(
    name="a100",
    memory=int(79.1 * GIB),
    bf16=312 * TERA,
    fp32=19.5 * TERA,
    bandwidth=2039 * GB,
    link=300 * GB,  # third NVLink, 600 GB/s both ways
    host_link=32 * GB,  # PCIe 4 x16
    host_memory=256 * GIB,
    network=25 * GB,  # 200 Gb/s
    disk_link=_DRIVE_LINK,
    disk_memory=_DRIVE,
)
_H100 = Hardware(
    name="h100",  # SXM
    memory=int(79.1 * GIB),
    bf16=989 * TERA,
    fp32=67 * TERA,
    bandwidth=3350 * GB,
    link=450 * GB,  # fourth NVLink, 900 GB/s both ways
    host_link=64 * GB,  # PCIe 5 x16
    host_memory=256 * GIB,
    network=50 * GB,  # 400 Gb/s
    disk_link=_DRIVE_LINK,
    disk_memory=_DRIVE,
)
_L40S = Hardware(
    name="l40s",
    memory=int(44.4 * GIB),
    bf16=362 * TERA,
    fp32=91.6 * TERA,
    bandwidth=864 * GB,
    link=32 * GB,  # no NVLink: PCIe 4 x16
    host_link=32 * GB,
    host_memory=128 * GIB,
    network=12.5 * GB,  # 100 Gb/s
    disk_link=_DRIVE_LINK,  # of a disk whose size must be said
)

HARDWARE: dict[str, Hardware] = {
    # A laptop of eight cores: what a product and a copy reach, not a promise. Its next tier is a disk. Say your own.
    "cpu": Hardware(
        name="cpu",
        memory=None,
        bf16=0.5 * TERA,
        fp32=0.5 * TERA,
        bandwidth=50 * GB,
        link=2 * GB,
        host_link=1 * GB,
        host_memory=256 * GIB,
        network=1.25 * GB,
        per_node=8,
    ),
    # Any card: as fast as the slowest here. How much it holds must be said.
    "gpu": replace(_L40S, name="gpu", memory=None),
    "a100": _A100,
    "a100_40": replace(
        _A100,
        name="a100_40",
        memory=int(39.4 * GIB),
        bandwidth=1555 * GB,
        host_memory=128 * GIB,
        disk_link=_DRIVE_LINK / 2,
        disk_memory=_DRIVE // 2,
    ),
    "h100": _H100,
    "h200": replace(_H100, name="h200", memory=int(139.7 * GIB), bandwidth=4800 * GB),
    "b200": Hardware(
        name="b200",
        memory=int(178.3 * GIB),
        bf16=2250 * TERA,
        fp32=75 * TERA,
        bandwidth=8000 * GB,
        link=900 * GB,  # fifth NVLink, 1.8 TB/s both ways
        host_link=64 * GB,  # PCIe 5 x16
        host_memory=256 * GIB,
        network=50 * GB,
        disk_link=_DRIVE_LINK,
        disk_memory=_DRIVE,
    ),
    "l40s": _L40S,
}
"""The hardware of each kind of cluster."""

UNITS: dict[str, float] = {
    "memory": GIB,
    "usable": 1,
    "bf16": TERA,
    "fp32": TERA,
    "bandwidth": GB,
    "link": GB,
    "host_link": GB,
    "host_memory": GIB,
    "disk_link": GB,
    "disk_memory": GIB,
    "network": GB,
    "per_node": 1,
}
"""What 1 means in a deployment, by the figure: GiB, TFLOP/s, GB/s."""


_WHOLE = ("memory", "host_memory", "disk_memory", "per_node")


def hardware_of(cluster: str, own: Mapping[str, float] | None = None) -> Hardware:
    """The hardware of a kind of cluster, with a user's own figures, in `UNITS`, in place of some."""
    scaled: dict[str, Any] = {name: value * UNITS[name] for name, value in (own or {}).items()}
    whole = {name: round(value) for name, value in scaled.items() if name in _WHOLE}
    return replace(HARDWARE[cluster], **scaled | whole)


def figures_of(hardware: Hardware) -> dict[str, float | None]:
    """The figures that a deployment can give, by name, in bytes, FLOP/s and bytes/s."""
    return {name: getattr(hardware, name) for name in UNITS}
