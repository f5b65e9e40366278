"""A head's last layer, fitted: to which rows or tokens, in which heads, and what training then starts from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.encoder.heads import JoinedHeads
from pipeline.encoder.model import load_trainable
from pipeline.encoder.outputs import EmbeddingOptions
from pipeline.errors import SpecError
from pipeline.finetune.alone import learn_alone, train_alone
from pipeline.finetune.fitted import (
    STRENGTHS,
    Effort,
    KnownTargets,
    LinearModel,
    LossSum,
    check_head_start,
    choose_strength,
    fit_last_layer,
    fit_linear,
    fit_new_heads,
    is_to_fit,
)
from pipeline.finetune.last_layer import LastLayer
from pipeline.finetune.prepare import prepare_training
from pipeline.finetune.spec import FinetuneSpec
from pipeline.finetune.status import TrainingStatus
from pipeline.finetune.worker import build_job, learn
from pipeline.tasks import TASKS
from pipeline.tasks.base import IGNORED
from pipeline.tasks.losses import Emphasis, class_loss_sum
from tests.unit.encoder.families import FAMILIES, Family
from tests.unit.finetune.many_heads import context_of, head_of, tag_data
from tests.unit.finetune.training import Notes, raw_spec, token_data

PLAIN = class_loss_sum


def zeros(num_outputs: int, bias: bool = True) -> LinearModel:
    """For what `known` gives."""
    return LinearModel.zeros(torch.nn.Linear(8, num_outputs, bias))


def fit(rows: KnownTargets, num_outputs: int, strength: float, loss_sum: LossSum) -> LinearModel:
    """From zeros."""
    return fit_linear(rows, zeros(num_outputs), strength, loss_sum)


def known(num_rows: int = 60, seed: int = 0, noise: float = 1.0) -> KnownTargets:
    draw = np.random.default_rng(seed)
    classes = np.arange(num_rows) % 3
    features = np.eye(3, 8)[classes] + noise * draw.normal(size=(num_rows, 8))
    features /= np.linalg.norm(features, axis=1).mean()
    return KnownTargets(torch.from_numpy(features).float(), torch.from_numpy(classes[:, None]).float())


def probabilities(features: np.ndarray, targets: np.ndarray, strength: float, has_bias: bool = True) -> np.ndarray:
    """What scikit-learn makes of the same features."""
    theirs = LogisticRegression(C=strength, max_iter=5_000, tol=1e-8, fit_intercept=has_bias)
    found: np.ndarray = theirs.fit(features, targets).predict_proba(features)
    return found


@pytest.mark.parametrize("strength", [1.0, 100.0])
def test_the_fit_is_scikit_learns(strength: float) -> None:
    rows = known()
    ours = fit(rows, 3, strength, PLAIN)
    logits = rows.features_NH @ ours.weight_CH.T + ours.bias_C
    expected = probabilities(rows.features_NH.numpy(), rows.targets_NK[:, 0].numpy(), strength)
    np.testing.assert_allclose(torch.softmax(logits, dim=1).numpy(), expected, atol=2e-3)


def test_class_weights_count_as_rows_that_are_there_again() -> None:
    rows = known()
    again = torch.cat([torch.arange(60), torch.arange(0, 60, 3)])
    doubled = fit(rows.take(again), 3, 10.0, PLAIN)
    weights = Emphasis(0.0, torch.tensor([2.0, 1.0, 1.0]) * 60 / 80)
    weighted = fit(rows, 3, 10.0 * 80 / 60, partial(class_loss_sum, emphasis=weights))
    torch.testing.assert_close(weighted.weight_CH, doubled.weight_CH, atol=5e-3, rtol=1e-2)


def test_soft_labels_are_fitted_too() -> None:
    rows = known()
    hard = fit(rows, 3, 10.0, PLAIN)
    soft = KnownTargets(rows.features_NH, torch.eye(3)[rows.targets_NK[:, 0].long()])
    torch.testing.assert_close(fit(soft, 3, 10.0, PLAIN).weight_CH, hard.weight_CH)


def test_several_labels_a_row_are_fitted_each_for_itself() -> None:
    rows = known()
    marks = torch.stack([rows.targets_NK[:, 0] == 0, rows.targets_NK[:, 0] < 2], dim=1).float()
    # their loss is a mean over labels, so that the same penalty weighs as many times more
    ours = fit(KnownTargets(rows.features_NH, marks), 2, 20.0, TASKS["multi-label"].loss_sum)
    found = torch.sigmoid(rows.features_NH @ ours.weight_CH.T + ours.bias_C).numpy()
    for label in range(2):
        expected = probabilities(rows.features_NH.numpy(), marks[:, label].numpy(), 10.0)[:, 1]
        np.testing.assert_allclose(found[:, label], expected, atol=2e-3)


def test_noisier_features_are_regularised_more() -> None:
    clear = choose_strength(known(noise=0.1), zeros(3), PLAIN, seed=1)
    noisy = choose_strength(known(noise=3.0), zeros(3), PLAIN, seed=1)
    assert noisy < clear
    assert clear > 10 >= choose_strength(known(noise=0.1), zeros(3), PLAIN, 1, Effort(max_strength=10.0))
    assert choose_strength(known(3), zeros(3), PLAIN, seed=1) in STRENGTHS, "one row of each class"


def test_the_strength_is_the_one_with_the_least_loss_of_all() -> None:
    """Whoever stops at the first rise must not miss a later fall."""
    for seed, noise in enumerate((0.3, 1.0, 2.0)):
        rows, losses = known(90, seed, noise), {}
        for strength in STRENGTHS:
            losses[strength] = 0.0
            for fold in range(3):
                held = torch.from_numpy(np.arange(90) // 3 % 3 == fold)
                model = fit(rows.take(~held), 3, strength, PLAIN)
                part = rows.take(held)
                losses[strength] += float(PLAIN(part.features_NH @ model.weight_CH.T + model.bias_C, part.targets_NK))
        values = list(losses.values())
        least = values.index(min(values))
        assert values[:least] == sorted(values[:least], reverse=True)
        assert values[least:] == sorted(values[least:])


@pytest.mark.parametrize("head_class", ["AutoModelForSequenceClassification", "AutoModelForTokenClassification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_last_layer(family: str, head_class: str) -> None:
    """Nothing comes after it: logits are linear in its weights."""
    network = FAMILIES[family].network(head_class).eval()
    ids = torch.tensor([[5, 9, 12, 7, 3]])
    last = LastLayer.of(network).linear
    with torch.no_grad():
        before = network(input_ids=ids).logits - last.bias
        last.weight.mul_(2)
        torch.testing.assert_close(network(input_ids=ids).logits - last.bias, 2 * before)


def test_rows_are_fitted_as_the_network_sees_them(tokenizer: Any) -> None:
    """The logits after the fit are those of a regression on what the last layer got, row by row, unpacked."""
    head = head_of("text-classification", token_data(tokenizer, 30))
    context = context_of([head])
    last = LastLayer.of(context.joined.network(head.name))
    fit = fit_last_layer(context, head, rank=0)
    assert (fit.num_targets, LastLayer.of(context.joined.network(head.name)).linear) == (30, last.linear)
    features, logits = inputs_and_logits(context.joined.network(head.name), last.linear, head)
    features /= np.linalg.norm(features, axis=1).mean()
    expected = probabilities(features, head.data.targets.values, fit.strength)
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(logits), dim=1).numpy(), expected, atol=5e-3)


def test_a_layer_without_a_bias_is_fitted_without_one() -> None:
    """Decoders' heads have none; they read the last token."""
    decoder = Family("GPT2Config", {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "num_labels": 3})
    head = head_of("text-classification", token_data(decoder.tokenizer(), 30))
    network = JoinedHeads({head.name: decoder.network(head.task.head_class)}, EmbeddingOptions("mean", False))
    fit = fit_last_layer(context_of([head], network), head, rank=0)
    last = LastLayer.of(network.network(head.name)).linear
    features, logits = inputs_and_logits(network.network(head.name), last, head)
    ends = head.data.rows.offsets[1:] - 1
    features, logits = features[ends] / np.linalg.norm(features[ends], axis=1).mean(), torch.from_numpy(logits[ends])
    expected = probabilities(features, head.data.targets.values, fit.strength, has_bias=False)
    np.testing.assert_allclose(torch.softmax(logits, dim=1).numpy(), expected, atol=5e-3)


def test_tokens_without_a_label_are_left_out(tokenizer: Any) -> None:
    head = head_of("token-classification", tag_data(tokenizer, 30))
    context = context_of([head])
    last = LastLayer.of(context.joined.network(head.name))
    fit = fit_last_layer(context, head, rank=0)
    is_known = head.data.targets.values != IGNORED
    assert fit.num_targets == is_known.sum() == head.data.targets.weights.sum()
    features, logits = inputs_and_logits(context.joined.network(head.name), last.linear, head)
    features = features[is_known] / np.linalg.norm(features[is_known], axis=1).mean()
    expected = probabilities(features, head.data.targets.values[is_known], fit.strength)
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(logits[is_known]), dim=1).numpy(), expected, atol=5e-3)


@pytest.mark.parametrize(("task", "most", "least"), [("text-classification", 12, 12), ("token-classification", 40, 30)])
def test_as_many_targets_as_are_asked_for(tokenizer: Any, task: str, most: int, least: int) -> None:
    data = token_data(tokenizer, 30) if task == "text-classification" else tag_data(tokenizer, 30)
    head = head_of(task, data)
    assert least <= fit_last_layer(context_of([head]), head, rank=0, effort=Effort(most)).num_targets <= most


def test_no_more_tokens_than_are_asked_for(tokenizer: Any) -> None:
    head = head_of("text-classification", token_data(tokenizer, 30))
    lengths = head.data.rows.lengths
    found = fit_last_layer(context_of([head]), head, rank=0, effort=Effort(max_tokens=int(lengths.sum()) // 2))
    assert 10 < found.num_targets < 20


def test_rows_without_a_label_and_states_that_are_no_numbers_are_left_out(tokenizer: Any) -> None:
    head = head_of("token-classification", tag_data(tokenizer, 30))
    context = context_of([head])
    linear = LastLayer.of(context.joined.network(head.name)).linear
    before = linear.weight.clone()
    with torch.no_grad():
        embeddings = context.joined.encoder.get_input_embeddings().weight
        embeddings[int(head.data.rows.ids[1])] = torch.nan  # of a token that some texts have, and some have not
    num_known = int(head.data.targets.weights.sum())
    assert 0 < fit_last_layer(context, head, rank=0).num_targets < num_known
    assert linear.weight.isfinite().all()
    with torch.no_grad():
        embeddings.fill_(torch.nan)
        linear.weight.copy_(before)
    assert fit_last_layer(context, head, rank=0).num_targets == 0
    assert torch.equal(linear.weight, before)


def inputs_and_logits(network: Any, linear: torch.nn.Linear, head: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the last layer gets and gives, for every row alone."""
    seen: list[torch.Tensor] = []
    hook = linear.register_forward_hook(lambda _module, inputs, output: seen.append(torch.cat([inputs[0], output], -1)))
    network.eval()
    with torch.no_grad():
        for row in range(len(head.data.rows)):
            network(input_ids=torch.from_numpy(head.data.rows.row(row).astype(np.int64))[None])
    hook.remove()
    both = torch.cat([values.reshape(-1, values.shape[-1]) for values in seen]).numpy()
    return both[:, : linear.in_features], both[:, linear.in_features :]


def test_a_head_that_is_there_is_kept_unless_it_is_asked_for(encoder_directory: Path, tmp_path: Path) -> None:
    task, labels = TASKS["text-classification"], {"num_labels": 3}
    network, new = load_trainable(encoder_directory, task.head_class, **labels)
    assert is_to_fit(task, network, new, "auto")
    assert not is_to_fit(task, network, new, "random")
    network.save_pretrained(tmp_path / "trained")
    again, new = load_trainable(tmp_path / "trained", task.head_class, **labels)
    assert not new
    assert not is_to_fit(task, again, new, "auto")
    assert is_to_fit(task, again, new, "fitted")
    other, new = load_trainable(tmp_path / "trained", task.head_class, num_labels=4)
    assert is_to_fit(task, other, new, "auto"), "of another size, so it is a new one"


def test_a_single_number_is_fitted_only_where_that_is_asked_for(encoder_directory: Path) -> None:
    task = TASKS["similarity"]
    loaded = load_trainable(encoder_directory, task.head_class, num_labels=1, problem_type="regression")
    assert not is_to_fit(task, *loaded, "auto")
    assert is_to_fit(task, *loaded, "fitted")


@pytest.mark.parametrize(("sampling", "least", "most"), [(None, 0.0, 0.15), ("balanced", 0.4, 0.6)])
def test_rows_that_are_drawn_more_often_count_more_in_the_fit(
    tokenizer: Any, sampling: str | None, least: float, most: float
) -> None:
    data = token_data(tokenizer, 120)
    data.targets.values[:] = np.arange(120) % 10 == 0  # texts that say nothing of their class
    head = head_of("text-classification", data)
    context = context_of([head], sampling=sampling)
    fit_new_heads(context, [head.name], rank=0)
    _, logits = inputs_and_logits(
        context.joined.network(head.name), LastLayer.of(context.joined.network(head.name)).linear, head
    )
    assert least < torch.softmax(torch.from_numpy(logits), dim=1)[:, 1].mean() < most


@pytest.fixture
def raw(tmp_path: Path, encoder_directory: Path) -> dict[str, Any]:
    return raw_spec(tmp_path, encoder_directory, rows_per_file=40, training={"epochs": 1, "learning_rate": 1e-6})


def statuses(raw: dict[str, Any], **recipe: Any) -> list[TrainingStatus]:
    spec = FinetuneSpec.model_validate({**raw, "training": {**raw["training"], **recipe}})
    heard: list[TrainingStatus] = []
    learn_alone(prepare_training(spec, "spec.yaml"), 1, heard.append)
    return heard


def test_training_starts_from_the_fit(raw: dict[str, Any]) -> None:
    """At a rate at which nothing is learned."""
    fitted, random = statuses(raw), statuses(raw, head_start="random")
    assert fitted[0].remarks is not None
    assert fitted[0].remarks[0].startswith("head fitted to 120 targets, loss 0.")
    assert random[0].remarks is None
    assert fitted[0].loss < 0.6 * random[0].loss
    assert fitted[-1].validation is not None
    assert random[-1].validation is not None
    assert fitted[-1].validation["accuracy"] > random[-1].validation["accuracy"]


def test_a_training_that_goes_on_is_not_fitted_again(raw: dict[str, Any], tmp_path: Path) -> None:
    run = prepare_training(FinetuneSpec.model_validate(raw), "spec.yaml")
    train_alone(run, 1)
    first = Notes(tmp_path / "first")
    job, _ = build_job(run, 0, 1)
    learn(job, first.hooks())
    weights = LastLayer.of(job.context.joined.network("")).linear.weight.clone()
    job, _ = build_job(run, 0, 1)
    second = Notes(tmp_path / "second")
    learn(job, second.hooks(first.checkpoints[-1]))
    assert torch.equal(LastLayer.of(job.context.joined.network("")).linear.weight, weights)
    assert not any(status.remarks for status in second.statuses)


@pytest.mark.parametrize("task", ["question-answering", "embedding"])
def test_tasks_whose_loss_is_not_of_one_row_or_token_cannot_be_fitted(raw: dict[str, Any], task: str) -> None:
    data = {"train": raw["data"]["train"]}
    spec = FinetuneSpec.model_validate({**raw, "task": task, "data": data, "training": {"head_start": "fitted"}})
    message = rf"training\.head_start: fitted, for {task}; expected auto or random"
    with pytest.raises(SpecError, match=message):
        check_head_start(spec.training, [TASKS[task]], "spec.yaml")
