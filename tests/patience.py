"""How long a test waits for something that comes in seconds: on a machine at work, half a minute becomes ten."""

PATIENCE_S = 900.0
