"""The client that `openapi-python-client` generates from a small OpenAPI document of our own, made when wanted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator

_NAME: Final = "generated_client_of_the_benchmark"

_TEXT: Final[dict[str, Any]] = {"type": "string", "nullable": True}
_DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.0.3",
    "info": {"title": "Card production", "version": "1"},
    "paths": {
        "/v3/spend/profiles/{profileId}/cards/{cardToken}/production": {
            "get": {
                "operationId": "getProduction",
                "tags": ["cards"],
                "security": [{"bearer": []}],
                "parameters": [
                    {
                        "name": "profileId",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "integer", "format": "int64"},
                    },
                    {"name": "cardToken", "in": "path", "required": True, "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": {
                        "description": "The status",
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Production"}}},
                    }
                },
            }
        }
    },
    "components": {
        "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        "schemas": {
            "Production": {
                "type": "object",
                "required": ["status"],
                "properties": {
                    "status": {"type": "string"},
                    "kioskId": _TEXT,
                    "occurredAt": {"type": "string", "format": "date-time", "nullable": True},
                    "errorCode": _TEXT,
                    "description": _TEXT,
                },
            }
        },
    },
}


@contextmanager
def generated() -> Generator[tuple[Any, Any], None, None]:
    """Generate the client and import it.

    Yields:
        Its `AuthenticatedClient`, and the module of the call.
    """
    with tempfile.TemporaryDirectory() as folder:
        document, config = Path(folder, "openapi.json"), Path(folder, "config.json")
        document.write_text(json.dumps(_DOCUMENT))
        config.write_text(json.dumps({"post_hooks": []}))  # which would only format it
        command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none"]
        command += ["--path", str(document), "--config", str(config), "--output-path", str(Path(folder, _NAME))]
        subprocess.run(command, check=True, capture_output=True)
        sys.path.insert(0, folder)
        try:
            client = importlib.import_module(f"{_NAME}.client").AuthenticatedClient
            yield client, importlib.import_module(f"{_NAME}.api.cards.get_production")
        finally:
            sys.path.remove(folder)
            for name in [name for name in sys.modules if name.partition(".")[0] == _NAME]:
                del sys.modules[name]
