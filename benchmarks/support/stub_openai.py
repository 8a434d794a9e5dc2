"""An OpenAI-shaped upstream whose answers cost nothing: what a proxy is measured in front of. The answers are the stub node's.

python -m benchmarks.support.stub_openai PORT
"""

import asyncio
import sys

import uvicorn

from benchmarks.support.stub_node import Stubbed, wanted


class Upstream:
    def __init__(self) -> None:
        stubbed = Stubbed()
        self.body = stubbed.body
        self.events = {
            length: [b"data: " + chunk + b"\n\n" for chunk in chunks] for length, chunks in stubbed.chunks.items()
        }

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["method"] == "GET":
            await self.whole(send, b'{"object":"list","data":[]}')
        elif b'"stream": true' in body or b'"stream":true' in body:
            await self.stream(send, *wanted(body))
        else:
            await self.whole(send, self.body)

    async def whole(self, send, body):
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def stream(self, send, length, pace_s):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for event in self.events[length]:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            if pace_s:
                await asyncio.sleep(pace_s)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


if __name__ == "__main__":
    uvicorn.run(Upstream(), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", lifespan="off", ws="none")
