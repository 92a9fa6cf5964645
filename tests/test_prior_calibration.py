"""The calibration experiment, on six made-up tools: who was asked, and what it may claim."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_vlm_server import FakeVlm

from experiments import prior_calibration
from experiments.prior_calibration import CalibrationConfig, believed, main
from p2r_jax.prior.ask import AskConfig
from p2r_jax.prior.calibration import (
    Form,
    Source,
    as_row,
    leave_one_out,
    nested_leave_one_out,
    nll,
)
from p2r_jax.prior.photos import TICKS, View
from p2r_jax.prior.providers import ModelConfig

trimesh = pytest.importorskip("trimesh", reason="comes with mujoco-mjx")
pytest.importorskip("PIL", reason="Pillow comes with the extra vlm")
pytest.importorskip("matplotlib", reason="matplotlib comes with the extra vlm")
COUNT = 6
TEXT = "COM: 0.10 SIGMA: 0.20"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Six T-shaped tools in the data set's form; views are drawn, not rendered."""
    for index in range(COUNT):
        folder = tmp_path / "tools" / f"Made_Up_{index}"
        folder.mkdir(parents=True)
        bar, stem = trimesh.creation.box((20, 40 + 10 * index, 10)), trimesh.creation.box((90,) * 3)
        stem.apply_scale([2, 0.1, 0.1])
        bar.apply_translation((-80, 0, 0))
        trimesh.util.concatenate([bar, stem]).export(folder / "mesh.ply")
        (folder / "Inertia.yaml").write_text(f"COM_WRT_MESH: [{-0.01 * index}, 0.0, 0.0]\n")
    monkeypatch.setattr(prior_calibration, "render_views", drawn_views)
    return CalibrationConfig(
        out=tmp_path / "out", tools=tmp_path / "tools", views=1, ask=AskConfig(queries=2)
    )


def drawn_views(scene, shape, coordinates, count):
    """A silhouette whose bar is as wide as the tool's, so that every tool has its own."""
    picture, mask = np.full((40, 60, 3), 200, np.uint8), np.zeros((40, 60), bool)
    half = int(100 * shape.upper[1])
    mask[18:22, 5:55] = mask[20 - half : 20 + half, 5:12] = True
    picture[mask] = 90
    marks = np.array([30, 20.0]) + 25 * TICKS[:, None] * [1, 0]
    return [View(f"view{i}", picture, mask, {"com_object_x": marks}, f"{shape.name} {i}")
            for i in range(count)]  # fmt: skip


def record_of(config):
    return json.loads((config.out / "calibration.json").read_text())


def kinds(record):
    return {row["source"]: row["kind"] for row in record["rows"]}


def test_without_a_provider_only_geometry_speaks_and_the_choice_of_form_is_owned_up(config):
    main(config)
    record = record_of(config)
    assert set(kinds(record).values()) == {"heuristic", "reference"}
    assert record["statement"] == "No live model was called."
    assert "chosen by people who had seen these ten tools" in record["caveat"]
    assert record["check_on_synthetic"] is None
    assert "heuristic, mesh, form chosen in the fold" in kinds(record)
    assert "solid or hull, weight fitted" in record["menu"]["mesh"]
    assert (config.out / "calibration.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="holds a finished calibration; choose another --out"):
        main(config)


def test_the_fake_server_is_asked_through_real_clients_replayed_and_called_synthetic(config):
    for package in ("google.genai", "openai"):
        pytest.importorskip(package, reason="extra vlm")
    main(replace(config, fake=True))
    record = record_of(config)
    asked = {name: kind for name, kind in kinds(record).items() if "v1" in name}
    assert set(asked) == {
        "synthetic, gemini, parts-v1", "synthetic, gemini, plain-v1", "synthetic, openai, parts-v1",
        "synthetic, openai, plain-v1", "synthetic, replay, parts-v1",
    }  # fmt: skip
    assert set(asked.values()) == {"synthetic"}
    assert record["statement"].startswith("No live model was called. Rows of kind 'synthetic'")
    by_name = {row["source"]: row for row in record["rows"]}
    first, again = (by_name[f"synthetic, {p}, parts-v1"] for p in ("gemini", "replay"))
    assert first["objects"] == again["objects"]
    assert first["counts"]["queries"] == 2 * COUNT
    check = record["check_on_synthetic"]
    assert check["count"] == 4 * COUNT
    assert check["interval"][0] < check["true_scale"] < check["interval"][1]


def test_a_provider_is_scored_per_prompt_and_its_records_can_be_replayed(config, monkeypatch):
    pytest.importorskip("openai", reason="extra vlm")
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    with FakeVlm(text=lambda question: TEXT) as fake:
        model = ModelConfig("m", f"{fake.url}/v1")
        asked = replace(config, provider="openai", model=model)
        main(asked)
        assert len(fake.questions) == 2 * 2 * COUNT
        (config.out / "calibration.json").unlink()
        main(asked)  # as if it had been interrupted: the records answer
        assert len(fake.questions) == 2 * 2 * COUNT
    record = record_of(config)
    assert kinds(record)["synthetic, openai, parts-v1"] == "synthetic"  # the server says so
    replay = ModelConfig(replay=config.out / "records" / "openai")
    again = replace(config, out=config.out.parent / "again", provider="replay", model=replay)
    main(again)
    rows, replayed = ({r["source"]: r for r in record_of(c)["rows"]} for c in (config, again))
    assert (
        replayed["synthetic, replay, plain-v1"]["objects"]
        == rows["synthetic, openai, plain-v1"]["objects"]
    )
    assert all(b"secret-key" not in p.read_bytes() for p in config.out.rglob("*") if p.is_file())


def test_a_tool_without_usable_answers_is_left_out_and_named(config, capsys):
    pytest.importorskip("openai", reason="extra vlm")

    def text(question):
        return "I cannot say." if ": Made Up 3." in question.prompt else TEXT

    with FakeVlm(text=text) as fake:
        model = ModelConfig("m", f"{fake.url}/v1")
        main(replace(config, provider="openai", model=model, prompts=("plain-v1",)))
    (row,) = [row for row in record_of(config)["rows"] if "openai" in row["source"]]
    assert (row["count"], row["left_out"]) == (COUNT - 1, ["Made Up 3"])
    assert "Made Up 3 is left out: 0 of 2 queries" in capsys.readouterr().out


def test_what_cannot_be_run_is_refused_before_anything_is_read(config):
    with pytest.raises(SystemExit, match="name the data set's folder with --tools"):
        main(replace(config, tools=config.tools / "none"))
    with pytest.raises(SystemExit, match=r"--model\.replay FOLDER/PROMPT/TOOL\.jsonl"):
        main(replace(config, provider="replay"))
    with pytest.raises(ValueError, match=r"--model\.name"):
        main(replace(config, provider="openai"))
    assert not config.out.exists()


def test_made_up_answers_are_not_drawn_as_beliefs_about_a_tool():
    truth = np.zeros(4)
    sources = [
        Source("heuristic", "heuristic", truth, truth + 0.1, ""),
        Source("synthetic, openai, v1", "synthetic", truth, truth + 0.1, ""),
    ]
    assert [source.name for source in believed(sources)] == ["heuristic"]


def test_row_scores_what_was_said_and_names_the_rest():
    truth = np.array([0.0, 0.1, 0.2])
    source = Source("a", "live", np.array([0.1, np.nan, 0.2]), np.full(3, 0.1), "note")
    row = as_row(source, truth, ["x", "y", "z"])
    assert (row["count"], row["left_out"], row["kind"]) == (2, ["y"], "live")
    np.testing.assert_allclose(row["mae"], 0.05)
    np.testing.assert_allclose([o["z"] for o in row["objects"]], [1.0, 0.0])


def test_nested_choice_never_sees_the_object_and_finds_the_form_that_holds():
    rng = np.random.default_rng(0)
    centroids = {"solid": rng.normal(size=12), "hull": rng.normal(size=12)}
    truth = 0.5 * centroids["hull"] + 0.05 * rng.normal(size=12)
    names = list("abcdefghijkl")
    forms = [Form(("solid",)), Form(("hull",), 0.5), Form(("hull",), 1.0)]
    mean, sigma, chosen = nested_leave_one_out(centroids, truth, names, forms)
    assert chosen == [forms[1]] * 12
    plain, plain_sigma, _ = leave_one_out({"hull": centroids["hull"]}, truth, names, 0.5)
    np.testing.assert_allclose((mean, sigma), (plain, plain_sigma))
    moved = truth.copy()
    moved[4] = 50.0
    again, sigma_again, _ = nested_leave_one_out(centroids, moved, names, forms)
    assert (again[4], sigma_again[4]) == (mean[4], sigma[4])
    assert sigma_again[0] > sigma[0]


def test_nested_choice_between_useless_forms_costs_likelihood():
    """Twelve centroids of pure noise: the best in hindsight looks better than the nested one."""
    rng = np.random.default_rng(1)
    truth, names = rng.normal(size=10), list("abcdefghij")
    centroids = {str(i): rng.normal(size=10) for i in range(12)}
    forms = [Form((kind,)) for kind in centroids]
    mean, sigma, _ = nested_leave_one_out(centroids, truth, names, forms)
    losses = []
    for form in forms:
        m, s, _ = leave_one_out({k: centroids[k] for k in form.candidates}, truth, names)
        losses.append(np.mean(nll(m - truth, s)))
    assert np.mean(nll(mean - truth, sigma)) > min(losses)
