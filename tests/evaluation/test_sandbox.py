"""Code that a model wrote cannot reach the network, write, multiply, or outlive its limits: the attacks are real."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from earnest.evaluation.sandbox import Limits, Outcome, Walls, host, run, run_all, walls
from earnest.specs import UserError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")
SHORT = Limits(seconds=1.5)
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin")


def _behind_the_filter_alone(program: str, limits: Limits = SHORT, checks: str = "") -> Outcome:
    """The fallback of machines without namespaces, forced."""
    if os.geteuid() == 0 and SYSTEM_PYTHON is None:
        pytest.skip("nobody can read no Python here, and the filter alone never runs root's")
    python = SYSTEM_PYTHON if os.geteuid() == 0 else sys.executable
    assert python is not None
    return run(program, limits, python, checks=checks, wall=Walls("filter", "nobody" if os.geteuid() == 0 else "own"))


def _behind_the_best_walls(program: str, limits: Limits = SHORT, checks: str = "") -> Outcome:
    return run(program, limits, checks=checks)


both_walls = pytest.mark.parametrize("attack", [_behind_the_best_walls, _behind_the_filter_alone])


@both_walls
def test_a_program_passes_by_running_to_its_end(attack) -> None:
    assert attack("import math\nassert math.comb(4, 2) == 6") == Outcome("passed")
    assert attack("assert 1 == 2, 'no'") == Outcome("failed", "AssertionError: no")
    assert attack("def f(:").status == "failed"


@both_walls
@pytest.mark.parametrize("leaving", ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise KeyboardInterrupt"])
def test_leaving_early_is_not_passing(attack, leaving: str) -> None:
    assert attack(leaving + "\nassert False").status in {"failed", "died"}


def test_what_a_program_prints_is_not_its_verdict() -> None:
    assert run("print('passed')\nprint('0' * 32 + ' passed')\nassert False").status == "failed"


@both_walls
def test_no_network_not_even_to_this_machine(attack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcome = attack(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)")
        assert outcome.status == "failed"
        assert "PermissionError" in outcome.detail
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()


@both_walls
def test_no_unix_socket_through_the_file_system(attack, tmp_path: Path) -> None:
    place = Path("/dev/shm") / f"{tmp_path.name}.{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        place.chmod(0o777)
        server.listen()
        try:
            outcome = attack(f"import socket\nsocket.socket(socket.AF_UNIX).connect({str(place)!r})")
        finally:
            place.unlink()
    assert outcome.status == "failed"
    assert "PermissionError" in outcome.detail


def test_the_network_namespace_is_empty() -> None:
    if walls().kind != "namespaces":
        pytest.skip("no namespaces here")
    names = "[line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line]"
    assert run(f"assert {names} == ['lo'], {names}") == Outcome("passed")
    assert run("assert open('/proc/net/route').read().count(chr(10)) <= 1").passed


@both_walls
@pytest.mark.parametrize(
    "bomb",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess\nwhile True: subprocess.Popen(['/bin/sleep', '60'])",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "import os\nos.posix_spawn('/bin/sleep', ['sleep', '60'], {})",
    ],
)
def test_no_other_process_is_ever_made(attack, bomb: str) -> None:
    outcome = attack(bomb)
    assert outcome.status == "failed"
    assert any(error in outcome.detail for error in ("PermissionError", "Operation not permitted", "BlockingIOError"))


@both_walls
def test_threads_run_out(attack) -> None:
    bomb = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
    before = threading.active_count()
    assert attack(bomb).status in {"failed", "timeout", "died"}
    assert threading.active_count() == before


@both_walls
def test_no_file_of_the_machine_can_be_written(attack, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    mine = tmp_path / "mine"
    mine.write_text("as it was")
    mine.chmod(0o666)
    open_to_all = Path("/dev/shm") / f"{tmp_path.name}.{os.getpid()}"
    try:
        for path in (mine, open_to_all):
            attack(f"open({str(path)!r}, 'w').write('changed')")
            attack(f"import os; os.unlink({str(path)!r})")
            attack(f"import os; os.truncate({str(path)!r}, 0)")
            attack(f"import os; os.mkdir({str(path) + '.d'!r})")
            attack(f"import os; os.rename({str(path)!r}, {str(path) + '.e'!r})")
        assert mine.read_text() == "as it was"
        assert mine.stat().st_mode & 0o777 == 0o666
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]
        assert not open_to_all.exists()
    finally:
        open_to_all.unlink(missing_ok=True)


@both_walls
@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/sys/kernel/core_pattern", "/sys/kernel/profiling", "/usr/x"])
def test_nothing_of_the_system_opens_for_writing(attack, path: str) -> None:
    outcome = attack(f"open({path!r}, 'r+' if __import__('os').path.exists({path!r}) else 'w')")
    assert outcome.status == "failed"
    assert "Error" in outcome.detail


def test_scratch_is_in_memory_small_and_gone_afterwards() -> None:
    if walls().kind != "namespaces":
        pytest.skip("no namespaces here: nothing can be written at all")
    name = f"scratch.{os.getpid()}"
    assert run(f"open({name!r}, 'w').write('x')\nassert open({name!r}).read() == 'x'").passed
    assert run(f"import os\nassert not os.path.exists({name!r})").passed
    assert not any((Path(place) / name).exists() for place in host.SCRATCH)
    fill = "for n in range(64):\n    open(str(n), 'wb').write(bytes(2**20))"
    assert "No space left" in run(fill, Limits(seconds=5)).detail


@both_walls
@pytest.mark.parametrize("loop", ["while True: pass", "import time; time.sleep(60)",
    "import time\nwhile 1:\n try: time.sleep(9)\n except BaseException: pass"])  # fmt: skip
def test_an_endless_loop_is_ended(attack, loop: str) -> None:
    began = time.monotonic()
    outcome = attack(loop, Limits(seconds=0.5))
    assert outcome == Outcome("timeout", "0.5 s")
    assert time.monotonic() - began < host.START_SECONDS / 2


@both_walls
@pytest.mark.parametrize("grab", ["x = bytearray(3 * 2**30)", "x = []\nwhile True: x.append(bytes(2**20))",
                                  "import mmap\nx = mmap.mmap(-1, 3 * 2**30)"])  # fmt: skip
def test_memory_is_bounded(attack, grab: str) -> None:
    outcome = attack(grab, Limits(seconds=10, memory_mib=256))
    assert outcome.status in {"failed", "died"}
    assert outcome.status == "died" or "Memory" in outcome.detail or "Cannot allocate" in outcome.detail


@both_walls
def test_memory_that_no_limit_counts_cannot_be_had(attack) -> None:
    assert "Operation not permitted" in attack("import os\nos.memfd_create('x')").detail


@both_walls
@pytest.mark.parametrize("flood", ["while True: print('x' * 1000)", "import os\nwhile True: os.write(1, b'x' * 65536)",
                                   "import os\nwhile True: os.write(2, b'x' * 65536)"])  # fmt: skip
def test_a_flood_of_output_is_ended(attack, flood: str) -> None:
    assert attack(flood, Limits(seconds=20, output_bytes=10_000)) == Outcome("output", "more than 10000 bytes")


def test_the_environment_with_its_keys_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    seek = (
        "import os, glob\nfound = str(dict(os.environ))\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: found += open(path).read()\n"
        "    except OSError: pass\n"
        "assert 'hunter2' not in found and 'SECRET_KEY' not in found"
    )
    assert run(seek).passed


@both_walls
def test_no_other_process_can_be_harmed(attack) -> None:
    victim = subprocess.Popen(["/bin/sleep", "30"], user=host.USERS[0] if os.geteuid() == 0 else None)
    try:
        attack(f"import os, signal\nos.kill({victim.pid}, signal.SIGKILL)")
        attack("import os, signal\nos.kill(-1, signal.SIGKILL)")
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@both_walls
@pytest.mark.parametrize(
    "call",
    [
        "libc.mount(b'none', b'/mnt', b'tmpfs', 0, None)",
        "libc.umount2(b'/tmp', 2)",
        "libc.unshare(0x10000000)",
        "libc.setns(0, 0)",
        "libc.ptrace(0, 0, 0, 0)",
        "libc.syscall(425, 8, ctypes.create_string_buffer(256))",
        "libc.syscall(442, -100, b'/', 0x8000, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32)",
        "libc.syscall(435, ctypes.create_string_buffer(88), 88)",
    ],
)
def test_the_walls_cannot_be_taken_down_from_inside(attack, call: str) -> None:
    program = f"import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\nr = {call}\n"
    program += "assert r == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS), (r, ctypes.get_errno())"
    assert attack(program) == Outcome("passed")


def test_no_powers_are_left() -> None:
    found = run("raise ValueError([l.split()[1] for l in open('/proc/self/status') if l[:3] == 'Cap'], "
                "[l.split()[1] for l in open('/proc/self/status') if l[:7] in ('NoNewPr', 'Seccomp')])")  # fmt: skip
    assert found.detail.startswith(f"ValueError: ([{', '.join([repr('0' * 16)] * 5)}], ['1', '2'")


def test_devices_do_not_open() -> None:
    if walls().kind != "namespaces":
        pytest.skip("no namespaces here")
    assert run("import os\nassert set(os.listdir('/dev')) == {'null', 'zero', 'random', 'urandom'}").passed
    assert run("open('/dev/null', 'w').write('x')\nassert len(open('/dev/urandom', 'rb').read(4)) == 4").passed


def test_root_becomes_nobody_where_nobody_can_read_the_python() -> None:
    if os.geteuid() != 0 or SYSTEM_PYTHON is None:
        pytest.skip("not root here, or no Python that all may read")
    assert walls(SYSTEM_PYTHON).user == "nobody"
    mine = "import os\ntry: open('/etc/shadow')\nexcept PermissionError: pass\nelse: raise ValueError(os.getuid())"
    assert run(mine, python=SYSTEM_PYTHON) == Outcome("passed")


def test_several_run_at_once_and_in_order() -> None:
    found = run_all([("pass", ""), ("raise ValueError", ""), ("pass", "")], SHORT, workers=2)
    assert [outcome.passed for outcome in found] == [True, False, True]


def test_a_python_that_does_not_start_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="nothing is run"):
        run("pass", python="/no/such/python")


ADD = "def add(a, b):\n"
TESTS = "add = __candidate__('add')\nassert add(1, 2) == 3\nassert add(5, 7) == 12\n"


@both_walls
def test_tests_in_a_process_of_their_own_tell_right_from_wrong(attack) -> None:
    assert attack(ADD + "    return a + b", checks=TESTS) == Outcome("passed")
    assert attack(ADD + "    return a - b", checks=TESTS) == Outcome("failed", "AssertionError:")
    assert attack("def other(): pass", checks=TESTS).detail == "NameError: name 'add' is not defined"
    assert attack(ADD + "    raise KeyError(a)", checks=TESTS).status == "failed"


WRITE_TO_ALL = """
    import os
    for fd in range(64):
        for text in (b'passed\\n', b'ready\\npassed\\n', b'\\0\\0\\0\\x10{"returned": null}' * 9):
            try: os.write(fd, text)
            except OSError: pass
    os._exit(0)
"""
READ_MEMORY = """
    spans = [line.split()[0] for line in open('/proc/self/maps')]
    memory = open('/proc/self/mem', 'rb')
    import re
    for span in spans:
        low, high = (int(part, 16) for part in span.split('-'))
        try: memory.seek(low); held = memory.read(high - low)
        except Exception: continue
        if re.search(rb'asser' + rb't add', held): return a + b
    return 0
"""
READ_OTHERS = """
    import glob, os
    for path in glob.glob('/proc/[0-9]*/mem') + glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/proc/[0-9]*/cmdline'):
        if path.split('/')[2] not in (str(os.getpid()), 'self'):
            try: held = open(path, 'rb').read(1)
            except OSError: continue
            if held and path.endswith('mem'): return a + b
    return 0
"""
PATCH_FRAMES = """
    import sys, gc
    frame = sys._getframe()
    while frame:
        for space in (frame.f_globals, frame.f_locals):
            for name in list(space):
                if callable(space[name]) and name != 'add': space[name] = lambda *_, **__: {'returned': None}
        frame = frame.f_back
    return 0
"""
EQUAL_TO_ALL = """
    class Equal(int):
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        def __reduce__(self): return (eval, ('type("E", (), dict(__eq__=lambda *_: True))()',))
    return Equal(0)
"""
FRAMES = """
    import sys
    frame = sys._getframe()
    while frame:
        if 'asser' + 't add' in str(frame.f_locals): return a + b
        frame = frame.f_back
    return 0
"""
OBJECTS = """
    import gc
    return a + b if any('asser' + 't add' in each for each in gc.get_objects() if isinstance(each, str)) else 0
"""
MODULES = """
    import sys
    for module in list(sys.modules.values()):
        if 'sandbox' in module.__name__: module.__dict__.update(encode=lambda _: True)
    return 0
"""
FORGERIES = {
    "frames": FRAMES,
    "objects": OBJECTS,
    "modules": MODULES,
    "own memory": READ_MEMORY,
    "others' memory": READ_OTHERS,
    "patched frames": PATCH_FRAMES,
    "every descriptor": WRITE_TO_ALL,
    "exit code": "    import os; os._exit(0)",
    "exit": "    import sys; sys.exit(0)",
    "at exit": "    import atexit, os; atexit.register(lambda: os._exit(0)); return 0",
    "equal to all": EQUAL_TO_ALL,
    "builtins": "    import builtins; builtins.AssertionError = ValueError; builtins.exec = lambda *_: None; return 0",
    "trace": "    import sys; sys.settrace(lambda frame, *_: frame.f_globals.update(add=lambda a, b: a + b)); return 0",
    "parent": "    import os, signal\n    os.kill(os.getppid(), signal.SIGTERM)\n    return 0",
    "own exception": "    class Passed(BaseException): pass\n    raise Passed('passed')",
}


@both_walls
@pytest.mark.parametrize("body", FORGERIES.values(), ids=FORGERIES)
def test_no_forgery_passes(attack, body: str) -> None:
    assert attack(ADD + body, checks=TESTS).status in {"failed", "died"}


@both_walls
@pytest.mark.parametrize("body", FORGERIES.values(), ids=FORGERIES)
def test_no_forgery_passes_as_it_is_imported(attack, body: str) -> None:
    program = "def forge(a, b):\n" + body + "\nadd = forge(1, 2)\ndef add(a, b): return 0"
    assert attack(program, checks=TESTS).status in {"failed", "died"}


def test_what_the_tests_wrote_cannot_be_written_over() -> None:
    if walls().kind != "namespaces":
        pytest.skip("no namespaces here: nothing can be written at all")
    forged = "open('right', 'w').write('2'); open('mine', 'w').write('2')"
    tests = f"open('right', 'w').write('1')\n__execute__({forged!r}, {{}})\n"
    tests += "assert open('mine').read() == open('right').read()"
    assert run("", checks=tests).status == "failed"


def test_root_never_runs_code_as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("not root here")
    for python in filter(None, (sys.executable, SYSTEM_PYTHON)):
        # The root of a namespace of nobody's is nobody to the files of root.
        assert run("open('/etc/shadow')", python=python).detail.startswith("PermissionError")
        assert run("import os\nassert os.getgroups() in ([], [65534], [0])", python=python) == Outcome("passed")
    assert run("import os\nassert 0 not in os.getresuid()").passed or walls().user == "nobody"


def test_arguments_that_a_function_changes_are_changed() -> None:
    checks = "f = __candidate__('f')\nl, d = [3, 1], {}\nassert f(l, d) is None\nassert l == [1, 3] and d == {'a': 1}"
    assert run("def f(l, d):\n    l.sort()\n    d['a'] = 1", checks=checks) == Outcome("passed")


def test_exceptions_of_the_candidate_reach_the_tests() -> None:
    checks = "f = __candidate__('f')\ntry: f()\nexcept ValueError as e: assert str(e) == 'no'\nelse: assert False"
    assert run("def f(): raise ValueError('no')", checks=checks) == Outcome("passed")
    assert run("def f(): raise TypeError('no')", checks=checks) == Outcome("failed", "TypeError: no")
