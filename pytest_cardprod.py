"""The pytest plugin of cardprod, which `cardprod.testing` describes.

It stands beside the package, because pytest imports it at each start: importing it must not import the package, which
takes half a second and would be done before any measurement of coverage begins. A test that asks for a fixture does so.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pytest_asyncio import fixture

    import cardprod
    from cardprod.simulator import Simulator
elif find_spec("pytest_asyncio"):
    from pytest_asyncio import fixture
else:  # another plugin runs async tests
    from pytest import fixture  # noqa: PT013 - as above

__all__ = ["kiosk", "kiosk_client"]


@fixture
async def kiosk() -> AsyncIterator[Simulator]:
    """A simulated kiosk on loopback, in the test's own event loop and so in its real or virtual time."""
    from cardprod.simulator import Simulator  # noqa: PLC0415 - see above

    async with Simulator() as simulator:
        yield simulator


@fixture
async def kiosk_client(kiosk: Simulator) -> AsyncIterator[cardprod.Client]:
    """A client of `kiosk`, with default settings."""
    from cardprod import Client  # noqa: PLC0415 - see above

    async with Client(kiosk.token, base_url=kiosk.base_url) as client:
        yield client
