"""Runs a function within limits of time and memory; edits JSON files."""

import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

from uedpo.errors import ConfigError, InputError, plain_line

SECONDS, BYTES = 10, 2**30


def one_line(call):
    """The one line with which `call` refuses in a child that may take 10 seconds and 1 GB more than this
    process has.

    Raises:
        AssertionError: it took longer or more, went through, or raised something else.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        code = 1
        try:
            status = Path("/proc/self/status").read_text().split()
            data = int(status[status.index("VmData:") + 1]) * 1024
            resource.setrlimit(resource.RLIMIT_DATA, (data + BYTES, data + BYTES))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            try:
                said = f"went through: {call()!r}"
            except (InputError, ConfigError) as error:
                said, code = plain_line(error), 0
            os.write(write, said.encode()[:60_000])
        except BaseException:
            os.write(write, traceback.format_exc()[-3000:].encode())
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, f"ended with {code}: {said}"
    return said


def edit(path, **changes):
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
