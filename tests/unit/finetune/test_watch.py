from __future__ import annotations

import math

from pipeline.finetune.watch import NormWatch


def test_a_norm_ten_times_the_median_is_remarked() -> None:
    watch = NormWatch()
    assert [watch.add(step, 1.0 + step % 3) for step in range(10)] == [None] * 10
    assert watch.add(10, 19.9) is None
    assert watch.add(11, 20.1) == "gradient norm 20.1 at step 11, usually 2"


def test_the_first_steps_have_nothing_to_compare_with() -> None:
    watch = NormWatch()
    assert [watch.add(step, 10.0**step) for step in range(10)] == [None] * 10


def test_the_usual_follows_the_run_and_forgets() -> None:
    watch = NormWatch()
    for step in range(100):
        watch.add(step, 1.0)
    for step in range(60):
        watch.add(step, 9.0)
    assert watch.add(160, 50.0) is None
    assert watch.add(161, math.inf) == "gradient norm inf at step 161, usually 9"
    assert watch.add(162, 50.0) is None, "a norm that is not finite is not part of the usual"


def test_norms_next_to_nothing_may_jump_about() -> None:
    watch = NormWatch()
    for step in range(10):
        watch.add(step, 1e-5)
    assert watch.add(10, 0.09) is None
    assert watch.add(11, 0.11) == "gradient norm 0.11 at step 11, usually 1e-05"
