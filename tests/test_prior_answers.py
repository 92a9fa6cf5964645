"""Answers become numbers or a stated reason; numbers become the paper's mean and sigma."""

import json

import numpy as np
import pytest

from p2r_jax.prior.aggregate import TooFewAnswersError, count, summarize, to_prior
from p2r_jax.prior.ask import Outcome
from p2r_jax.prior.parse import Estimate, UnusableError, answer_schema, parse
from p2r_jax.prior.prompts import fill_prompt, load_prompt, prompt_names
from p2r_jax.prior.protocol import Answer
from p2r_jax.prior.quantities import quantities_for
from p2r_jax.prior.shape import shape_of_asset
from p2r_jax.tasks import load_task

SHAPE = shape_of_asset(load_task("push_tblock").object)
ONE = quantities_for(["com_object_x"], SHAPE)
FOUR = quantities_for(["com_object_x", "com_object_y", "mass", "friction"], SHAPE)


def answer(text, stop="complete", model="a-model"):
    return Answer(text, stop, model, 100, 10)


@pytest.mark.parametrize(
    ("text", "value", "sigma"),
    [
        ("COM: 0.34 SIGMA: 0.12", 0.34, 0.12),
        ("Reasons.\n\n**COM: 0.34** **SIGMA: 0.12**", 0.34, 0.12),
        ("**COM:** 0.34\n**SIGMA:** 0.12\n", 0.34, 0.12),
        ("COM: [+0.34], SIGMA: [0.12].", 0.34, 0.12),
        ("COM: −0.2 SIGMA: ±.05", -0.2, 0.05),  # minus and plus-minus signs of print
        ("com = 1e-1 sigma = 5e-2", 0.1, 0.05),
        ("First COM: 0.1 SIGMA: 0.3, but the head is steel.\nCOM: 0.5 SIGMA: 0.2", 0.5, 0.2),
        ("COM: -1 SIGMA: 2", -1.0, 2.0),
        ("`COM: 0.34` | `SIGMA: 0.12`", 0.34, 0.12),
        ('{"reasoning": "r", "com": 0.34, "com_sigma": 0.12}', 0.34, 0.12),
        ('```json\n{"com": 0, "com_sigma": 0.12}\n```', 0.0, 0.12),
    ],
)
def test_free_text_and_structured_answers_both_parse(text, value, sigma):
    assert parse(answer(text), ONE) == {"com_object_x": Estimate(value, sigma)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no line 'COM"),
        ("The centre lies near the head.", "no line 'COM"),
        ("COM: about one third SIGMA: 0.1", "no line 'COM"),
        ("COM: [your estimate] SIGMA: [your uncertainty]", "no line 'COM"),
        ("COM: 0.34", "no line 'COM"),
        ("COM: 0.34 SIGMA: small", "no line 'COM"),
        ("COM: 3.4 cm SIGMA: 0.5 cm", "no line 'COM"),
        ("COM: 0.3cm SIGMA: 0.05cm", "no line 'COM"),
        ("COM: 34% SIGMA: 10%", "no line 'COM"),
        ("COM: 0,34 SIGMA: 0,12", "no line 'COM"),
        ("COM: 0.3-0.5 SIGMA: 0.1", "no line 'COM"),
        ("COM: 0.3 to 0.5 SIGMA: 0.1", "no line 'COM"),
        ("COM: 1/3 SIGMA: 0.1", "no line 'COM"),
        ("COM: 0.3.1 SIGMA: 0.1", "no line 'COM"),
        ("COM: 1.2 SIGMA: 0.1", r"COM is 1.2, outside \[-1, 1\]"),
        ("COM: 0.3 SIGMA: 0", "SIGMA of COM is 0, not positive"),
        ("COM: 0.3 SIGMA: -0.1", "not positive"),
        ("COM: 0.3 SIGMA: 7", "wider than the whole range"),
        ('{"com": "0.3", "com_sigma": 0.1}', "com is '0.3', not a number"),
        ('{"com": 0.3}', "com_sigma is None"),
        ('{"com": true, "com_sigma": 0.1}', "com is True"),
        ('{"com": NaN, "com_sigma": 0.1}', "not finite"),
        ('{"com": 0.3, "com_sigma": Infinity}', "not finite"),
        ("[0.3, 0.1]", "no line 'COM"),
    ],
)
def test_answers_that_leave_doubt_are_unusable_and_say_why(text, reason):
    with pytest.raises(UnusableError, match=reason):
        parse(answer(text), ONE)


@pytest.mark.parametrize(("stop", "reason"), [("refused", "refused"), ("truncated", "cut off")])
def test_refused_and_cut_answers_are_unusable_even_if_they_hold_numbers(stop, reason):
    with pytest.raises(UnusableError, match=reason):
        parse(answer("COM: 0.3 SIGMA: 0.1", stop), ONE)


def test_several_quantities_parse_in_any_order_and_none_may_be_missing():
    lines = ["MASS: 0.34 SIGMA: 0.1", "COM_ACROSS: -0.1 SIGMA: 0.05", "COM: 0.3 SIGMA: 0.2",
             "FRICTION: 0.4 SIGMA: 0.15"]  # fmt: skip
    estimates = parse(answer("\n".join(lines)), FOUR)
    assert estimates["com_object_y"] == Estimate(-0.1, 0.05)
    assert estimates["mass"] == Estimate(0.34, 0.1)
    with pytest.raises(UnusableError, match="FRICTION"):
        parse(answer("\n".join(lines[:3])), FOUR)
    with pytest.raises(UnusableError, match="MASS is 340, outside"):  # grams
        parse(answer("\n".join(["MASS: 340 SIGMA: 10", *lines[1:]])), FOUR)


def test_schema_names_every_number_and_states_no_bounds():
    schema = answer_schema(FOUR)
    assert schema["required"] == [
        "reasoning", "com", "com_sigma", "com_across", "com_across_sigma", "mass", "mass_sigma",
        "friction", "friction_sigma",
    ]  # fmt: skip
    assert set(schema["properties"]["com"]) == {"type"}


@pytest.mark.parametrize("name", prompt_names())
def test_shipped_prompts_say_object_axis_ends_and_form_of_the_answer(name):
    prompt = fill_prompt(load_prompt(name), "a mallet", "from grip to head", ONE, json=False)
    for words in ("a mallet", "from grip to head", "-1 is", "+1 is", "COM: [number] SIGMA:"):
        assert words in prompt
    assert "$" not in prompt
    assert "blue" not in prompt
    structured = fill_prompt(load_prompt(name), "a mallet", "", FOUR, json=True)
    assert "blue" in structured
    assert "mass_sigma" in structured
    assert "kilograms, and the coefficient" in structured


def test_a_prompt_of_ones_own_needs_its_slots(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("$object $axes $questions")
    with pytest.raises(ValueError, match=r"it needs the slots \$object.*\$ending"):
        load_prompt(str(path))
    with pytest.raises(FileNotFoundError, match="plain-v1"):
        load_prompt("plain-v0")


def outcome(photo, query, value=None, sigma=0.1, unusable=()):
    estimates = None if value is None else {"com_object_x": Estimate(value, sigma)}
    answers = tuple(answer(text) for _, text in unusable)
    answers += () if value is None else (answer("ok", model="synthetic-fake"),)
    return Outcome(photo, query, estimates, tuple(unusable), answers)


def test_prior_is_mean_of_estimates_and_mean_of_sigmas_with_the_spread_beside_it():
    outcomes = [outcome("a", 0, 0.2, 0.1), outcome("a", 1, 0.4, 0.3), outcome("b", 0, 0.9, 0.2)]
    (summary,) = summarize(outcomes, ONE, 1)
    np.testing.assert_allclose(summary.mean, 0.05)  # 0.5 of the half length of 10 cm
    np.testing.assert_allclose(summary.sigma, 0.02)  # not divided by the root of three
    np.testing.assert_allclose(summary.spread, np.std([0.02, 0.04, 0.09], ddof=1))
    np.testing.assert_allclose(summary.between, np.std([0.03, 0.09], ddof=1))
    prior = to_prior([summary], ONE, outcomes, "tblock", sigma_scale=1.5)
    np.testing.assert_allclose(prior.sigma, [0.03])
    assert prior.ends == ((-0.1, 0.1),)
    assert prior.kind == "synthetic"
    assert "3 answers about 2 photos, sigma x 1.5" in prior.source


def test_one_made_up_answer_makes_the_prior_synthetic_and_none_makes_it_live():
    live = [Outcome("a", 0, {"com_object_x": Estimate(0.1, 0.1)}, (), (answer("x"),))]
    summaries = summarize(live, ONE, 1)
    assert to_prior(summaries, ONE, live, "tblock").kind == "live"
    mixed = [*live, outcome("a", 1, 0.1)]
    assert to_prior(summarize(mixed, ONE, 1), ONE, mixed, "tblock").kind == "synthetic"


def test_too_few_answers_are_an_error_with_the_raw_text():
    bad = [("no line", "It is heavy at the top."), ("refused", "I cannot.")]
    outcomes = [outcome("a", 0, 0.2), outcome("b", 1, None, unusable=bad)]
    assert summarize(outcomes, ONE, 1)[0].count == 1
    with pytest.raises(TooFewAnswersError, match=r"1 of 2 .*2 are needed") as caught:
        summarize(outcomes, ONE, 2)
    assert "b, query 1: no line: 'It is heavy at the top.'" in str(caught.value)
    with pytest.raises(TooFewAnswersError):
        summarize([outcome("a", 0, None, unusable=bad)], ONE, 0)


def test_excluded_queries_retries_tokens_and_cost_are_counted():
    outcomes = [
        outcome("a", 0, 0.2, unusable=[("refused", "no")]),
        outcome("a", 1, None, unusable=[("refused", "no"), ("refused", "no"), ("prose", "x")]),
    ]
    counts = count(outcomes, prices=(2.0, 10.0))
    assert (counts.queries, counts.usable, counts.excluded, counts.retried) == (2, 1, 1, 4)
    assert counts.reasons == {"refused": 3, "prose": 1}
    assert (counts.input_tokens, counts.output_tokens) == (500, 50)
    assert counts.cost_usd == pytest.approx((500 * 2 + 50 * 10) / 1e6)
    assert count(outcomes).cost_usd is None
    assert json.dumps(counts.reasons)
