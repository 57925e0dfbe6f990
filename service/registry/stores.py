"""The store that a setting names."""

from pathlib import Path

from service.errors import BadStore
from service.registry.folder import FolderStore
from service.registry.store import Store

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


def open_store(where: str) -> Store:
    """Opens a folder, or an object store by its URL.

    Raises:
        BadStore: it is not what it is named as, or cannot be used.
    """
    scheme, separator, _ = where.partition("://")
    if not separator:
        return FolderStore(Path(where))
    if scheme not in SCHEMES:
        raise BadStore(f"store {where}: no store is named by {scheme}://; there are {', '.join(SCHEMES)}")
    from service.registry.objects import connect  # who serves from a folder need not load it

    return connect(where)
