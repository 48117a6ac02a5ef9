"""The strategies by name: what `SEATRIAL_STORAGE` chooses from."""

from server.db.storage.base import Storage
from server.db.storage.partitioned import PartitionedStorage
from server.db.storage.plain import PlainStorage

STRATEGIES: dict[str, type[Storage]] = {
    PlainStorage.name: PlainStorage,
    PartitionedStorage.name: PartitionedStorage,
}


def storage(name: str) -> Storage:
    """The strategy of that name.

    Raises:
        ValueError: there is none; the sentence lists those there are.
    """
    try:
        return STRATEGIES[name]()
    except KeyError:
        raise ValueError(f"storage = {name!r}: expected one of {', '.join(STRATEGIES)}") from None
