"""What to run where an extra is missing: the command that installs it from where this package was installed."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, PackageNotFoundError
from typing import Any, Final
from urllib.parse import unquote, urlsplit

_NAME: Final = "cardprod"


def needs_extra(what: str, extra: str) -> str:
    """Return the message for something that cannot be used without an extra.

    Args:
        what: What was used, such as "cardprod.otel".
        extra: The extra's name.
    """
    return f"{what} needs the extra '{extra}': {install_command(extra)}"


def install_command(extra: str) -> str:
    """Return the command that adds an extra to the installed package.

    pip and uv record where a package came from, unless that was an index (PEP 610, `direct_url.json`).

    Args:
        extra: The extra's name.
    """
    try:
        recorded = Distribution.from_name(_NAME).read_text("direct_url.json")
        source: dict[str, Any] = json.loads(recorded) if recorded else {}
        return f"pip install {_requirement(extra, source)}"
    except (PackageNotFoundError, ValueError, KeyError, TypeError, AttributeError, OSError):  # not installed, or odd
        return f"pip install '{_NAME}[{extra}]'"


def _requirement(extra: str, source: dict[str, Any]) -> str:
    if "dir_info" in source:
        option = "-e " if source["dir_info"].get("editable") else ""
        return f"{option}'{unquote(urlsplit(str(source['url'])).path)}[{extra}]'"
    if "vcs_info" in source:
        vcs = source["vcs_info"]
        revision = vcs.get("requested_revision")
        return f"'{_NAME}[{extra}] @ {vcs['vcs']}+{source['url']}{f'@{revision}' if revision else ''}'"
    if "url" in source:
        return f"'{_NAME}[{extra}] @ {source['url']}'"
    return f"'{_NAME}[{extra}]'"
