"""One Hypothesis profile: the same examples on every machine and every run, and no deadline on a busy one."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "bertmill",
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("bertmill")
