"""Build report.html anew from the files of a run: `python -m uedpo.report RUN_DIR`."""

from __future__ import annotations

import sys

from uedpo.errors import InputError, local_path, os_line, plain_line
from uedpo.runtime import redact
from uedpo.runtime.say import say


def main() -> int:
    """Exit code 0, or 2 with one line."""
    redact.install()
    arguments = sys.argv[1:]
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        say(__doc__)
        if len(arguments) > 1:
            say(f"{' '.join(arguments)}: give one directory of a run, and nothing else", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    from uedpo.report.page import write_report

    try:
        say(f"open {write_report(local_path(arguments[0]))}")
    except InputError as error:
        say(plain_line(error), file=sys.stderr)
        return 2
    except OSError as error:
        say(os_line(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
