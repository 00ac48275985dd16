"""Build report.html anew from the files of a run: `python -m uedpo.report RUN_DIR`."""

from __future__ import annotations

import sys

from uedpo.errors import InputError, local_path, os_line, plain_line


def main() -> int:
    """Exit code 0, or 2 with one line."""
    arguments = sys.argv[1:]
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    from uedpo.report.page import write_report

    try:
        print(f"open {write_report(local_path(arguments[0]))}")
    except InputError as error:
        print(plain_line(error), file=sys.stderr)
        return 2
    except OSError as error:
        print(os_line(error), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
