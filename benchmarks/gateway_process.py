"""The gateway and its ensemble in one process, without Ray: prints its address, and answers until it is ended.

PYTHONPATH=. python benchmarks/gateway_process.py CONFIG.toml
"""

import socket
import sys
from pathlib import Path

import torch
import uvicorn
from serve.colocated import colocated
from serve.config import read_config
from serve.ensemble import Ensemble
from serve.gateway import make_app

if __name__ == "__main__":
    torch.set_num_threads(1)
    config = read_config(Path(sys.argv[1]))
    app = make_app(config, Ensemble(colocated(config), config.batch))
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(f"answers at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])
