"""Names that both ends derive by the same rule, without asking each other."""

from collections.abc import Mapping
from hashlib import blake2b

_MASK_63_BITS = (1 << 63) - 1


def container_id(org: str, host: str, docker_id: str) -> int:
    """The 63-bit key of a container: BLAKE2b-64 over the three parts, the top bit cleared.

    Each part goes in as its UTF-8 bytes behind their count (4 bytes, big endian), so that no two triples make the same
    input. Collisions of the 63 bits are checked when the container is written to its table.
    """
    digest = blake2b(digest_size=8, person=b"seatrial.cid")
    for part in (org, host, docker_id):
        data = part.encode()
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "big") & _MASK_63_BITS


def series_name(name: str, labels: Mapping[str, str]) -> str:
    """What names a workload across re-created containers: Compose `project/service[/number]`, else the container's name."""
    project = labels.get("com.docker.compose.project")
    service = labels.get("com.docker.compose.service")
    if not project or not service:
        return name
    number = labels.get("com.docker.compose.container-number", "1")
    return f"{project}/{service}" if number == "1" else f"{project}/{service}/{number}"
