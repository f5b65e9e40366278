"""`python -m jobs.table`."""

from jobs.table.app import app

if __name__ == "__main__":
    app()
