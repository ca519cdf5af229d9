"""Fixtures for pytest: a simulated kiosk, and a client of it. They are there wherever cardprod is installed.

```python
async def test_a_jam_is_reported(kiosk, kiosk_client):
    kiosk.add((123456, "my-card"), "jams")
    final = await kiosk_client.wait_until_final(123456, "my-card")
    assert final.error_code == "PRD_FEEDER_JAM"
```

| fixture | is |
| --- | --- |
| `kiosk` | a running `cardprod.simulator.Simulator`, new for each test |
| `kiosk_client` | a `cardprod.Client` of it, with default settings |

They run in the test's own event loop, with pytest-asyncio in either mode or with anyio. With looptime, that is virtual
time: a wait of hours takes milliseconds. In real time, the plan "jams" takes five seconds, and one of your own, such as
`[("IN_PROGRESS", 0.1), ("PRODUCED", 0)]`, what you like.

A fixture of your own with the same name replaces one of these; if it is
`kiosk`, then `kiosk_client` is a client of yours.

`pytest -p no:pytest_cardprod` turns them off. pytest loads the plugin itself from the module `pytest_cardprod`, which
imports cardprod only when a test asks for a fixture.
"""

from __future__ import annotations

from pytest_cardprod import kiosk, kiosk_client

__all__ = ["kiosk", "kiosk_client"]
