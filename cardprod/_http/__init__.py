"""One request and its answer: permits, tokens, the aiohttp session, and what failures mean."""
