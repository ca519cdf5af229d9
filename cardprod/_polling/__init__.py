"""Many polls over time: schedules, one card's state, the queue, the engine, and its interfaces."""
