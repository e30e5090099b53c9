"""From the settings to a server that answers: the port first, then the model.

Imports no torch, which takes seconds: whoever asks meanwhile gets an answer.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from server.api.access.drain import Drain
from server.api.access.key_file import read_keys, watch_keys
from server.api.access.keys import KeyRing
from server.api.access.protocol import ConnectionLimits
from server.api.reception import Reception, waiting_room
from server.api.settings import ApiSettings
from server.api.tool_calls.tool_formats import ToolFormat
from server.configuration import ServerConfig
from server.engine.engine import Engine
from server.engine.loop_pulse import LoopPulse
from server.engine.step_watchdog import StepWatchdog
from server.listening import listen
from server.supervision import (
    DrainingServer,
    end_blocked_process,
    serve_until_dead,
    uvicorn_config,
)

logger = logging.getLogger(__name__)

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Application:
    """A server ready to run: its HTTP side, whose lifespan starts and stops the engine, and what
    closes it behind the last answer."""

    app: FastAPI
    engine: Engine
    close: Callable[[], None] | None = None


Compose = Callable[[KeyRing | None, Drain], Application]
"""Builds the application, on the event loop that will serve it."""


async def run_server(config: ServerConfig, load: Callable[[ServerConfig, float], Compose]) -> None:
    """Serve until told to stop (SIGINT, SIGTERM), and give everything back.

    `load` gets the settings and when the start began, in `perf_counter` seconds. Raises
    `ConfigurationError` at once for keys or an address that can't be used, `SwitchyardError`,
    `AdapterError` or `OSError` when the base or the store can't be loaded, and `EngineDeadError`
    when the step loop dies. A signal while it loads ends the process, with status 0.
    """
    started = time.perf_counter()
    await serve_when_loaded(config, lambda: load(config, started))


async def serve_when_loaded(config: ServerConfig, load: Callable[[], Compose]) -> None:
    """Listen, `load` on another thread, then serve; see `run_server`."""
    keys = KeyRing(read_keys(config.keys_file)) if config.keys_file else None
    drain = Drain()
    sockets = listen(config.host, config.port)
    reception = Reception(waiting_room(api_settings(config), keys, drain))
    applications: list[Application] = []

    def abort_all() -> None:
        for application in applications:
            application.engine.abort_all()

    server = DrainingServer(
        uvicorn_config(
            reception,
            host=config.host,
            port=config.port,
            limits=_connection_limits(config),
            lifespan="off",
        ),
        drain,
        drain_seconds=config.drain_seconds,
        abort_all=abort_all,
    )
    tasks = [asyncio.create_task(server.serve(sockets=sockets))]
    if config.keys_file and keys is not None:
        tasks.append(
            asyncio.create_task(watch_keys(config.keys_file, keys.replace, keys.refuse_file))
        )
    serving = tasks[0]
    logger.info("listening on %s, port %d", config.host, sockets[0].getsockname()[1])
    try:
        with _watched_loop(config.loop_timeout_seconds):
            compose = await _loaded(load, serving)
            application = compose(keys, drain)
            applications.append(application)
            try:
                async with application.app.router.lifespan_context(application.app):
                    reception.open(application.app)
                    await serve_until_dead(server, application.engine.wait_dead, serving)
            finally:
                if application.close is not None:
                    application.close()
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _loaded(load: Callable[[], Compose], serving: asyncio.Task[None]) -> Compose:
    """What `load` gives. Ends the process when the serving ends before."""
    loop = asyncio.get_running_loop()
    loaded: asyncio.Future[Compose] = loop.create_future()

    def settle(compose: Compose | None, error: BaseException | None) -> None:
        if loaded.done():
            return
        if error is not None:
            loaded.set_exception(error)
        elif compose is not None:
            loaded.set_result(compose)

    def run() -> None:
        compose: Compose | None = None
        error: BaseException | None = None
        try:
            compose = load()
        except BaseException as raised:  # noqa: BLE001 - the boundary: it is raised on the loop
            error = raised
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
            loop.call_soon_threadsafe(settle, compose, error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    either: set[asyncio.Future[Any]] = {serving, loaded}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if serving.done() and not loaded.done():
        serving.result()
        # Loading can't be interrupted, and has nothing to give back.
        logger.info("told to stop while loading: ending now")
        logging.shutdown()
        os._exit(0)
    return loaded.result()


@contextlib.contextmanager
def _watched_loop(timeout_seconds: float) -> Iterator[None]:
    """End the process when the running loop is blocked for too long while the context lasts."""
    thread_id = threading.get_ident()
    watchdog = StepWatchdog(
        LoopPulse(asyncio.get_running_loop()).missing_since,
        timeout_seconds=timeout_seconds,
        on_hang=lambda: end_blocked_process(thread_id, loop_timeout_seconds=timeout_seconds),
        name="loop-watchdog",
    )
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


def api_settings(config: ServerConfig) -> ApiSettings:
    """The settings that the api is given."""
    return ApiSettings(
        max_body_bytes=int(config.max_body_mib * _MIB),
        max_bodies_bytes=int(config.max_bodies_mib * _MIB),
        max_choices=config.max_choices,
        body_seconds=config.body_seconds,
        request_timeout_seconds=config.request_timeout_seconds,
        share_prefix_cache=config.share_prefix_cache,
        metrics_need_key=config.metrics_need_key,
        log_prompts=config.log_prompts,
        tool_format=None if config.tool_format == "auto" else ToolFormat(config.tool_format),
    )


def _connection_limits(config: ServerConfig) -> ConnectionLimits:
    return ConnectionLimits(
        # Chunked bodies are a little longer on the wire than they are.
        max_message_bytes=int(2 * config.max_body_mib * _MIB) + 64 * 1024,
        write_seconds=config.write_seconds,
        max_connections=config.max_connections,
    )
