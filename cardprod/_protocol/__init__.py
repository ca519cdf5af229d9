"""What travels: requests, answers, errors and events. Pure: no I/O, no clock, no asyncio."""
