"""A browser that is typed at: keys go to it over its own protocol, and a script says what they did."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

WITHIN_S = 30
KEYS = {"Tab": {"windowsVirtualKeyCode": 9}, "Enter": {"windowsVirtualKeyCode": 13, "text": "\r"}}


class Typed:
    """A page that is open."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, **KEYS[key])

    async def says(self, script: str) -> Any:
        """What the expression gives in the page."""
        told = await self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        return told["result"].get("value")

    async def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while (told := await self._socket.receive_json()).get("id") != self._number:
            pass
        result: dict[str, Any] = told["result"]
        return result


@asynccontextmanager
async def typed_at(page: Path, profile: Path) -> AsyncIterator[Typed]:
    argv = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    argv += [f"--user-data-dir={profile}", page.resolve().as_uri()]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
        try:
            async with asyncio.timeout(WITHIN_S), aiohttp.ClientSession() as http:
                address = await _page(http, profile / "DevToolsActivePort")
                async with http.ws_connect(address) as socket:
                    yield Typed(socket)
        finally:
            browser.terminate()


async def _page(http: aiohttp.ClientSession, port: Path) -> str:
    """The address of the page that the browser has opened."""
    while True:
        await asyncio.sleep(0.1)
        if port.is_file() and (lines := port.read_text(encoding="utf-8").splitlines()):
            async with http.get(f"http://127.0.0.1:{lines[0]}/json") as told:
                pages = [each for each in json.loads(await told.text()) if each["type"] == "page"]
            if pages and pages[0]["url"].startswith("file:"):
                return str(pages[0]["webSocketDebuggerUrl"])
