from pathlib import Path

import papermill.iorw
import pytest
import yaml

from fairnb.errors import UserError
from fairnb.files import root
from fairnb.profiles import load_profile, valid_keys

LEAST = {
    "name": "own",
    "model": "me/model",
    "prompts": "data/prompts/mini.json",
    "clip": "models/clip",
    "guide": "models/guide",
    "judge": "models/judge",
}


@pytest.mark.parametrize("name", ["mini", "smoke", "sd15", "ffd"])
def test_shipped_profiles_load_and_are_papermill_parameter_files(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.folder == root() / "outputs" / name
    assert Path(profile.prompts).is_file()
    parameters = papermill.iorw.read_yaml_file(str(root() / "notebooks" / "profiles" / f"{name}.yaml"))
    assert list(parameters) == ["profile"]
    assert load_profile(parameters["profile"]) == profile


def test_smoke_has_the_smallest_counts() -> None:
    mini, smoke = load_profile("mini"), load_profile("smoke")
    assert smoke.model == mini.model
    assert smoke.finetune.updates <= 2 and smoke.evaluate.images <= 4 and smoke.measure.images <= 4


def test_mini_spells_out_every_key() -> None:
    values = yaml.safe_load((root() / "notebooks" / "profiles" / "mini.yaml").read_text())["profile"]
    spelled = {key for key in values} | {
        f"{k}.{inner}" for k, v in values.items() if isinstance(v, dict) and k != "experiments" for inner in v
    }
    assert spelled == set(valid_keys())


def test_overrides_change_the_value_but_not_the_given_mapping() -> None:
    profile = load_profile(LEAST, {"finetune.updates": 7, "seed": 3, "finetune.learning_rate": "1e-4"})
    assert (profile.finetune.updates, profile.seed, profile.finetune.learning_rate) == (7, 3, 1e-4)
    assert "finetune" not in LEAST
    given = {**LEAST, "finetune": {"updates": 5}}
    assert load_profile(given, {"finetune.updates": 7}).finetune.updates == 7
    assert given["finetune"] == {"updates": 5}


def test_paths_start_at_the_repository_and_hub_ids_stay(tmp_path: Path) -> None:
    profile = load_profile({**LEAST, "judge": "data/prompts"}, {"output": str(tmp_path)})
    assert profile.model == "me/model"
    assert profile.judge[0].model == str(root() / "data" / "prompts")
    assert profile.folder == tmp_path / "own"
    assert profile.photographs is None
    assert load_profile(LEAST | {"photographs": "data/mine"}).photographs == str(root() / "data" / "mine")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("finetune.update", 3, "unknown key 'finetune.update', did you mean 'finetune.updates'"),
        ("sampling.stesp", 3, "did you mean 'sampling.steps'"),
        ("zzzzzz", 1, "unknown key 'zzzzzz'"),
        ("seed", "one", "key 'seed' is 'one', but input should be a valid integer"),
        ("seed", True, "key 'seed' is True"),
        ("model.first", 1, "single value"),
        ("finetune.learning_rate", "fast", "valid number"),
        ("finetune.learning_rate", float("nan"), "finite"),
        ("finetune.gradient", "best", "'adjusted', 'last' or 'full'"),
        ("finetune.pool", 3, "smaller than images"),
        ("finetune.part", 300, "larger than images"),
        ("finetune.gradient_steps", 99, "exceeds sampling.steps"),
        ("finetune", {"acts_from": 500, "gradient": "full"}, "acts_from .500. needs gradient: adjusted"),
        ("locate.k", 2, "less than 1"),
        ("finetune.changed_factor", {"gender": -1}, "key 'finetune.changed_factor'"),
        ("finetune.steps", [19], "key 'finetune.steps' is"),
        ("attribute", "hair", "unknown attribute 'hair'"),
        ("attribute", "age", "not among attributes"),
        ("name", "../up", "match pattern"),
        ("sampling", 3, "valid dictionary"),
    ],
)
def test_a_bad_value_is_one_sentence_with_its_key(key: str, value: object, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load_profile(LEAST, {key: value})
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match="key 'judge' is missing"):
        load_profile({key: value for key, value in LEAST.items() if key != "judge"})


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no profile named 'maxi': use one of ffd, mini, sd15, smoke"):
        load_profile("maxi")
    with pytest.raises(UserError, match="none.yaml cannot be read"):
        load_profile(tmp_path / "none.yaml")
    path = tmp_path / "own.yaml"
    for text, says in [("a: [", "is not YAML"), ("seed: 1", "single key 'profile'"), ("", "single key 'profile'")]:
        path.write_text(text)
        with pytest.raises(UserError, match=says) as caught:
            load_profile(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.write_text(yaml.safe_dump({"profile": {**LEAST, "finetune": {"update": 1}}}))
    with pytest.raises(UserError, match="own.yaml: unknown key 'finetune.update'"):
        load_profile(path)


def test_profiles_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_profile(LEAST).seed = 1


def test_guide_and_judge_must_differ() -> None:
    with pytest.raises(UserError, match="guide and judge are both me/eyes: name another judge"):
        load_profile({**LEAST, "guide": "me/eyes", "judge": [{"model": "me/other"}, {"model": "me/eyes"}]})


def test_ffd_has_the_eyes_of_sd15() -> None:
    ffd, sd15 = load_profile("ffd"), load_profile("sd15")
    assert (ffd.model, ffd.guide, ffd.judge, ffd.attributes) == (sd15.model, sd15.guide, sd15.judge, sd15.attributes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sampling.guidance": 5.0}, "key 'sampling.guidance' is now called sampling.guidance_scale"),
        ({"judge_may_guide": True}, "key 'judge_may_guide' is no longer there"),
        ({"experiments.assigned-1.guidance": {}}, "key 'experiments.assigned-1.guidance' is now called h_guidance"),
        ({"experiments.exp-3.joint": False}, "key 'experiments.exp-3.joint' is no longer there"),
    ],
)
def test_a_key_of_an_older_version_says_what_became_of_it(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        load_profile("mini", changes)
