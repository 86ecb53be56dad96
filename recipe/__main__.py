"""`python -m recipe`."""

from recipe.cli import main

if __name__ == "__main__":
    main()
