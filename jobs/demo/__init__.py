"""The demo: `job` runs the other jobs in order, `corpus` makes the data, `show` reads the result like an analyst."""
