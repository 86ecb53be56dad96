"""`python -m recipe`."""

import signal
import sys


def main() -> None:
    """Runs recipe.cli.main.main; Ctrl-C while it is imported has the same exit status."""
    try:
        from recipe.cli import main as cli
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would change the exit status
        print("recipe: interrupted", file=sys.stderr)
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
