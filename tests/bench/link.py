"""A slow link: a loopback port before another, which passes everything on a while later."""

import asyncio
import threading


class Link:
    """Each piece arrives `delay` seconds after it was sent, in either direction; bandwidth is not limited."""

    def __init__(self, target: int, delay: float) -> None:
        self.target, self.delay = target, delay
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self.thread.start()
        ready.wait(10)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._end)
        self.thread.join(10)

    def _end(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        asyncio.gather(*tasks, return_exceptions=True).add_done_callback(lambda _done: self.loop.stop())

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self.loop.run_forever()

    async def _accept(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_in, far_out = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            await asyncio.gather(self._pass(near_in, far_out), self._pass(far_in, near_out))
        except asyncio.CancelledError:
            # The end. asyncio's own callback for connections would print it.
            near_out.transport.abort()
            far_out.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65536):
                self.loop.call_later(self.delay, sink.write, piece)
            self.loop.call_later(self.delay, sink.close)
        except OSError:
            sink.close()
