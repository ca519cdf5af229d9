"""The formats: requests, answers, errors, events, and JSON. Pure: no I/O, no clock, no asyncio."""
