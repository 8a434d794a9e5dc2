"""How a running network is asked: one JSON object a line over HOME/run/control.sock, one answered.

{"command": "status"}, {"command": "kill", "validator": "validator1", "process": "chain", "signal": "KILL"}, …; the answer is
{"result": …} or {"error": {"code", "detail"}}. The socket is its owner's alone. A request has at most MAX_REQUEST bytes.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from avow.errors import AvowError
from avow.nodes.net.errors import ControlFault, NotUp

SOCKET = Path("run") / "control.sock"
MAX_REQUEST = 64 * 1024
MAX_ANSWER = 4 * 1024 * 1024
TIMEOUT_S = 60.0

Handler = Callable[[dict[str, Any]], Awaitable[Any]]


async def serve(home: Path, handler: Handler) -> asyncio.Server:
    """Answer until the server is closed."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readuntil(b"\n")
            answer = await _answer(line, handler)
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # whoever asked is gone, or asked for too much
        finally:
            with suppress(OSError):
                writer.close()

    path = home / SOCKET
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(connected, path, limit=MAX_REQUEST)
    path.chmod(0o600)
    return server


async def _answer(line: bytes, handler: Handler) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            raise ControlFault("a request is an object with a command")
        return {"result": await handler(request)}
    except AvowError as error:
        return {"error": {"code": error.code, "detail": error.detail}}
    except (ValueError, RecursionError):
        return {"error": {"code": ControlFault.code, "detail": "a request is one JSON object"}}


async def ask(home: Path, command: str, **parameters: Any) -> Any:
    """The answer of the network that runs in `home`. Raises NotUp, ControlFault."""
    try:
        reader, writer = await asyncio.open_unix_connection(home / SOCKET, limit=MAX_ANSWER)
    except OSError as error:
        raise NotUp("this network does not run", hint="`avow net up` starts it", home=str(home)) from error
    try:
        writer.write(json.dumps({"command": command, **parameters}).encode() + b"\n")
        await writer.drain()
        async with asyncio.timeout(TIMEOUT_S):
            answer = json.loads(await reader.readuntil(b"\n"))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, TimeoutError) as error:
        raise NotUp("the network's process does not answer", home=str(home)) from error
    finally:
        with suppress(OSError):
            writer.close()
    if "error" in answer:
        raise ControlFault(str(answer["error"].get("detail")), remote_code=answer["error"].get("code"))
    return answer["result"]
