from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from pipeline import errors
from pipeline.errors import (
    BertmillError,
    Checks,
    CorpusError,
    InputError,
    ModelError,
    Problem,
    SeveralErrors,
    SpecError,
)


def subclasses(base: type[BertmillError]) -> Iterator[type[BertmillError]]:
    yield base
    for child in base.__subclasses__():
        yield from subclasses(child)


def example_of(kind: type[BertmillError]) -> BertmillError:
    if issubclass(kind, SpecError):
        problems = (Problem("a.b", "is missing", "a value", "add `a.b: ...`"), Problem("c", "holds 1", "a list"))
        return kind("spec.yaml", problems)
    if issubclass(kind, SeveralErrors):
        return kind((CorpusError("no rows", "add some"), ModelError("no weights")))
    return kind("rows went missing; expected 10, got 9", "run it again")


EVERY_KIND = sorted(set(subclasses(BertmillError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_error_crosses_processes_unchanged(kind: type[BertmillError]) -> None:
    error = example_of(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert (copy.message, copy.remedy, copy.exit_code) == (error.message, error.remedy, error.exit_code)
    assert [str(part) for part in copy.args] == [str(part) for part in error.args]
    assert vars(copy).keys() == vars(error).keys()


def test_the_drawn_tree_names_every_error_once() -> None:
    drawn = [
        word for line in errors.__doc__.splitlines() for word in line.split()[:4] if word.endswith(("Error", "Errors"))
    ]
    assert sorted(drawn) == sorted(kind.__name__ for kind in EVERY_KIND if kind.__module__ == errors.__name__)


@pytest.mark.parametrize("kind", sorted(set(subclasses(InputError)), key=lambda kind: kind.__name__))
def test_what_the_user_can_mend_exits_with_2(kind: type[InputError]) -> None:
    assert kind.exit_code == 2


def test_no_two_kinds_that_scripts_must_tell_apart_share_an_exit_code() -> None:
    codes = [errors.TooManyBadRowsError.exit_code, errors.AccountingError.exit_code, errors.TrainingError.exit_code]
    assert len({*codes, errors.EXIT_INPUT, errors.EXIT_RESUMABLE}) == 5
    assert errors.TransientStorageError.exit_code == errors.CommitConflictError.exit_code == errors.EXIT_RESUMABLE


def test_a_remedy_stands_on_its_own_line() -> None:
    assert str(BertmillError("it broke", "mend it")) == "it broke\n  -> mend it"
    assert str(BertmillError("it broke")) == "it broke"


def test_a_spec_error_lists_every_problem() -> None:
    assert str(example_of(SpecError)) == (
        "spec.yaml: 2 problems\n- a.b: is missing; expected a value\n  -> add `a.b: ...`\n- c: holds 1; expected a list"
    )
    assert str(SpecError("s", (Problem("c", "holds 1", "a list"),))).startswith("s: 1 problem\n")


def failing(error: InputError) -> int:
    raise error


def test_independent_checks_are_all_run_and_told_together() -> None:
    checks = Checks()
    corpus, model = CorpusError("no rows", "add some"), ModelError("no weights")
    results = [checks.run(lambda: failing(corpus)), checks.run(lambda: 7), checks.run(lambda: failing(model))]
    assert results == [None, 7, None]
    with pytest.raises(SeveralErrors, match="2 problems\n- no rows\n  -> add some\n- no weights") as caught:
        checks.raise_failures()
    assert caught.value.errors == (corpus, model)


def test_a_single_failed_check_keeps_its_kind() -> None:
    checks = Checks()
    checks.run(lambda: failing(CorpusError("no rows")))
    with pytest.raises(CorpusError, match="no rows"):
        checks.raise_failures()


def test_checks_that_pass_raise_nothing() -> None:
    checks = Checks()
    assert checks.run(lambda: 7) == 7
    assert checks.raise_failures() is None


def test_checks_do_not_hide_bugs() -> None:
    with pytest.raises(KeyError, match="a bug"):
        Checks().run(lambda: {}["a bug"])


@pytest.mark.parametrize(("most", "told"), [(2, "a, b and 1 more"), (3, "a, b, c"), (9, "a, b, c")])
def test_of_many_names_the_first_are_told_and_how_many_more_there_are(most: int, told: str) -> None:
    assert errors.name_some(["a", "b", "c"], most) == told
