"""`Settings` of durable waits: one value for all that is chosen. Pure."""

from __future__ import annotations

from typing import Final

import attrs

DAY: Final = 86_400.0


@attrs.frozen(kw_only=True)
class Settings:
    """What is chosen, and how often a worker does what. All times are seconds.

    Args:
        schema, owner, keep, heartbeat, most_connections, grace: As for `Durable`.
        call: The time limit of a transaction, and of making a connection.
        poll: The time between two questions for jobs that have fallen due. Listening would be quicker for new ones; it
            needs sessions, which PgBouncer does not give in transaction mode.
        tick: The time between two exchanges of pauses, events and shares of the rate limit among workers.
        recover: The time between two searches for what dead workers left.
        clear: The time between two searches for what is old.
        sweep: After this time a sweep that the rate limit delays is written; the cards that it did not reach stay due,
            for any worker.
        longest: A job that has been under way for longer is lost, though its worker lives.
        overdue: After this time past a deadline, recovery ends the wait if no worker did.
        refused: For how long a worker does not try a token again that was refused.
    """

    schema: str = "cardprod"
    owner: str | None = None
    keep: float = 7 * DAY
    heartbeat: float = 5.0
    most_connections: int = 10
    grace: float = 10.0
    call: float = 10.0
    poll: float = 0.5
    tick: float = 2.0
    recover: float = 5.0
    clear: float = 30.0
    sweep: float = 5.0
    longest: float = 900.0
    overdue: float = 30.0
    refused: float = 30.0

    @property
    def lifetime(self) -> float:
        """After this time without a sign of life a worker is given up for dead."""
        return 3 * self.heartbeat
