"""`python -m uedpo`, and the `uedpo` command: hears signals before anything heavy is imported."""

from uedpo.runtime import preemption


def main() -> None:
    """See `uedpo.run.main`."""
    preemption.install()
    from uedpo.run import main as run

    run()


if __name__ == "__main__":
    main()
