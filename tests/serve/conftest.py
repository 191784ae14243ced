"""One ensemble of nano models in this process for all tests of the gateway, and a server in front of it."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import uvicorn
from serve.bounds import BoundedProtocol
from serve.colocated import colocated
from serve.config import Config, read_config
from serve.ensemble import Ensemble
from serve.gateway import make_app

ROOT = Path(__file__).parents[2]
NANO = ROOT / "serve" / "configs" / "nano.toml"


@pytest.fixture(scope="session")
def config() -> Config:
    """The shipped nano config."""
    return read_config(NANO)


@pytest.fixture(scope="session")
def ensemble(config: Config) -> Iterator[Ensemble]:
    """Its models, running in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    running = Ensemble(colocated(config), config.batch)
    yield running
    running.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Serve an app on a free port: `with serving(app) as url`."""

    @contextlib.contextmanager
    def serve(app: Any) -> Iterator[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = uvicorn.Server(
            uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=5, http=BoundedProtocol)
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server ended at once"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()

    return serve


@pytest.fixture(scope="session")
def url(config: Config, ensemble: Ensemble, serving: Callable[..., Any]) -> Iterator[str]:
    """Where the nano ensemble is served without keys."""
    with serving(make_app(config, ensemble)) as address:
        yield address


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[openai.OpenAI]:
    """OpenAI's own client."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as found:
        yield found
