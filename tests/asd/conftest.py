"""A real HTTP server that speaks OpenAI's protocol, and a model in the process; both can misbehave as told."""

import asyncio
import json
import multiprocessing
import threading
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import web


def answer_entries(prompt):
    """What a good model replies to one of the shipped prompts."""
    start = prompt.index("Entries:\n") + len("Entries:\n")
    entries = json.loads(prompt[start : prompt.index("\n\nReply with")])
    replies = []
    for entry in entries:
        reply = {"index": entry["index"], "question": entry["question"]}
        if '"distractors"' in prompt:
            reply["distractors"] = ["purple", "a wrong one", "7777"]
        elif '"distractor"' in prompt:
            reply["distractor"] = "purple"
        else:
            reply["text"] = f"The picture shows that {entry.get('answer', 'it')} is right, as anyone can see."
        replies.append(reply)
    return json.dumps(replies)


class Stub:
    """The server; `respond(body)` returns status, headers and either a reply or a whole body in bytes."""

    def __init__(self):
        self.latency = 0.0
        self.bodies, self.headers, self.answered = [], [], []
        self.most_at_once = self._at_once = 0
        self.respond = lambda body: (200, {}, answer_entries(body["messages"][0]["content"][-1]["text"]))

    async def handle(self, request):
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            started = time.perf_counter()
            status, headers, reply = self.respond(body)
            if isinstance(reply, str):
                message = {"role": "assistant", "content": reply}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "stub", "choices": choices}
                reply = json.dumps(reply).encode()
            # A fixed latency: what the stub itself takes is part of it.
            await asyncio.sleep(max(0.0, self.latency - (time.perf_counter() - started)))
            self.answered.append(json.dumps(body["messages"]))
            return web.Response(status=status, headers=headers, body=reply, content_type="application/json")
        finally:
            self._at_once -= 1

    async def start(self):
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", self.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner


@pytest.fixture
def stub():
    server, loop, ready = Stub(), asyncio.new_event_loop(), threading.Event()

    def run():
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(server.start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    yield server
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def _serve(latency, urls):
    async def run():
        server = Stub()
        server.latency = latency
        await server.start()
        urls.put(server.url)
        await asyncio.Event().wait()

    asyncio.run(run())


@pytest.fixture
def stub_process():
    """Starts a server in a process of its own, which takes no time from the client; returns its address."""
    context, processes = multiprocessing.get_context("fork"), []

    def start(latency):
        urls = context.Queue()
        processes.append(context.Process(target=_serve, args=(latency, urls), daemon=True))
        processes[-1].start()
        return urls.get(timeout=10)

    yield start
    for process in processes:
        process.kill()


class ModelInProcess:
    """A generator without a server."""

    def __init__(self, reply=None, concurrency=4):
        self.model, self.concurrency, self.conversations = "in process", concurrency, []
        self.options = {}
        self._reply = reply or (lambda turns: answer_entries(turns[0]))

    @asynccontextmanager
    async def session(self):
        async def reply(turns, images):
            self.conversations.append((tuple(turns), tuple(images)))
            await asyncio.sleep(0)
            return self._reply(turns)

        yield reply


@pytest.fixture
def model():
    return ModelInProcess
