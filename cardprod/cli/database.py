"""The database of `submit`, `worker` and `batch`: the one that is named, or one of this user's own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cardprod.errors import CardprodError, TransportError, UsageError

if TYPE_CHECKING:
    from cardprod.durable import Durable

__all__ = ["find_database"]


def find_database(url: str | None) -> Durable:
    """Find the database, and start this user's own if none is named. It blocks.

    Args:
        url: The database; None for the environment's.

    Raises:
        UsageError: The extra is not installed, or there is no database.
        TransportError: This user's own cannot be started.
    """
    try:
        from cardprod.durable import Durable  # noqa: PLC0415 - an extra

        url = url or os.environ.get("CARDPROD_DATABASE_URL")
        if not url:
            from cardprod.durable import embedded  # noqa: PLC0415 - as above

            url = embedded.start()
    except ImportError as exc:
        raise UsageError(f"this needs the extra durable: pip install 'cardprod[durable]' ({exc})") from exc
    except CardprodError:
        raise
    except Exception as exc:
        raise TransportError(f"this user's own PostgreSQL cannot be started: {exc}") from exc
    return Durable(url)
