"""A nano model as a member in a process of its own: prints where it answers, and answers until it is ended.

PYTHONPATH=. python benchmarks/member_process.py NAME ROWS SLOTS SECRET CORES
"""

import sys
import threading

import torch
from serve.members import Host, keep_to

from earnest.decoding.local import LocalMember
from earnest.models.loading import load
from earnest.models.source import resolve

if __name__ == "__main__":
    name, rows, slots, secret, cores = sys.argv[1:]
    keep_to(name, [int(core) for core in cores.split(",")])
    torch.set_num_threads(1)
    member = LocalMember(name, load(resolve(f"nano:{name}"), dtype="float32"), rows=int(rows), slots=int(slots))
    host = Host(member, bytes.fromhex(secret), None)
    print(host.card.vocabulary, host.card.row_bytes, host.card.address, flush=True)
    threading.Event().wait()
