"""`python -m jobs.models`."""

from jobs.models.app import app

if __name__ == "__main__":
    app()
