from pathlib import Path

import papermill.iorw
import pytest
import yaml

from fairnb import files
from fairnb.diffusion.pipeline import may_be_hub_id
from fairnb.errors import UserError
from fairnb.files import root
from fairnb.measure.provenance import provenance, relative
from fairnb.profiles import load_profile, valid_keys

MINI = root() / "data" / "mini-sd"
LEAST = {
    "name": "own",
    "model": "me/model",
    "prompts": "fairnb:data/prompts/mini.json",
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


def test_a_path_starts_where_its_user_stands_or_beside_the_file_that_names_it(tmp_path: Path, monkeypatch) -> None:
    """Also where the package has a file of the same name, which is called fairnb:... everywhere."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/mini-sd", "else/data/mini-sd"):
        (tmp_path / folder).mkdir(parents=True)
    typed = load_profile({**LEAST, "judge": ["data/mini-sd", {"model": "fairnb:data/mini-sd/judge"}], "clip": "."})
    assert typed.model == "me/model"  # no such folder: a hub id
    assert [each.model for each in typed.judge] == [str(tmp_path / "data/mini-sd"), str(MINI / "judge")]
    assert typed.clip == str(tmp_path) and typed.photographs is None
    assert typed.prompts == str(root() / "data/prompts/mini.json") and typed.folder == tmp_path / "outputs" / "own"
    file = tmp_path / "else" / "mine.yaml"
    content = LEAST | {"model": "data/mini-sd", "prompts": "words.json", "photographs": "~/mine", "output": "results"}
    file.write_text(yaml.safe_dump({"profile": content}))
    stored = load_profile("else/mine.yaml", {"occupation_judge": "data/mini-sd", "clip": "fairnb:data/mini-sd/clip"})
    assert stored.model == str(file.parent / "data/mini-sd") and stored.prompts == str(file.parent / "words.json")
    assert stored.folder == file.parent / "results" / "own" and stored.photographs == str(Path.home() / "mine")
    assert stored.occupation_judge == str(tmp_path / "data/mini-sd") and stored.clip == str(MINI / "clip")
    assert load_profile("mini").model == str(MINI)


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
        ("finetune", {"acts_from": 500, "gradient": "last"}, "acts_from .500. needs gradient adjusted or full"),
        ("locate.k", 2, "less than 1"),
        ("locate.tensors", "attn2(", "no regular expression"),
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


def experiment_folder(folder: Path, **finetune: dict) -> str:
    folder.mkdir()
    for name, settings in finetune.items():
        values = {"adapter": "lora", "shares": {"gender": None}, "finetune": settings}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return str(folder)


def test_experiments_are_the_files_of_a_folder_wherever_the_profile_comes_from(tmp_path: Path) -> None:
    mini = yaml.safe_load((root() / "notebooks" / "profiles" / "mini.yaml").read_text())["profile"]
    stems = sorted(file.stem for file in (root() / "notebooks" / "profiles" / "mini").iterdir())
    assert list(load_profile("mini").experiments) == list(load_profile(mini).experiments) == stems
    assert load_profile({**LEAST, "experiments": "notebooks/profiles/smoke"}).experiments["exp-1"].rank == 2
    folder = experiment_folder(tmp_path / "mine", b={"updates": 3})
    assert list(load_profile("mini", {"experiments": folder}).experiments) == ["b"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"profile": {**LEAST, "experiments": folder}}))
    changed = load_profile(tmp_path / "own.yaml", {"experiments.b.finetune.updates": 4, "experiments.b.rank": 1})
    assert (changed.finetune_of("b").updates, changed.experiments["b"].rank) == (4, 1)


def test_experiments_may_stand_in_one_file(tmp_path: Path) -> None:
    both = {"a": {"updates": 2, "images": 8}, "b": {"base": "a", "updates": 3}}
    folder = experiment_folder(tmp_path / "mine", **both)
    whole = {path.stem: yaml.safe_load(path.read_text()) for path in Path(folder).glob("*.yaml")}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(whole))
    one = load_profile({**LEAST, "experiments": str(tmp_path / "all.yaml")})
    assert one.experiments == load_profile({**LEAST, "experiments": folder}).experiments and len(whole) == 2
    (tmp_path / "all.yaml").write_text("a: {finetune: {base: z}}")
    with pytest.raises(UserError, match="all.yaml: a has finetune.base z: name another experiment"):
        load_profile({**LEAST, "experiments": str(tmp_path / "all.yaml")})
    (tmp_path / "all.yaml").write_text("a: 3")
    with pytest.raises(UserError, match="experiments.a"):
        load_profile({**LEAST, "experiments": str(tmp_path / "all.yaml")})


def test_the_arms_of_the_sweeps_differ_in_what_their_names_say() -> None:
    sweep = load_profile("mini", {"experiments": str(root() / "notebooks/profiles/sweeps/weights.yaml")})
    kinds = {"conv": "conv", "self": "attn1", "cross": "attn2"}
    for name, arm in sweep.experiments.items():
        if name == "dense":  # which the arms "moved" read
            assert (arm.adapter, arm.parts, sweep.finetune_of(name).updates) == ("full", ["unet"], 60)
            continue
        choice, size, letter = name.split("-")
        found, own = sweep.finetune_of(f"found-{size}-{letter}"), sweep.finetune_of(name)
        assert own == found
        if choice in kinds:
            assert (arm.choice, arm.locate["tensors"]) == ("found", kinds[choice])
        else:
            assert (arm.choice, arm.locate) == (choice, sweep.experiments[f"found-{size}-a"].locate)
        assert (own.optimizer, own.updates) == ("sgd" if letter in "cd" else "adamw", 60)
    shares = [sweep.locate_of(f"found-{size}-a").k for size in (1, 3, 9, 30, 100)]
    assert shares == sorted(set(shares)) and sweep.locate_of("found-9-a") == sweep.locate
    words = load_profile("mini", {"experiments": str(root() / "notebooks/profiles/sweeps/words.yaml")})
    assert {name: arm.occupations for name, arm in words.experiments.items()} == {
        f"words-{count}": count for count in (10, 20, 40, 80, 160)
    }


def test_an_experiment_takes_over_the_settings_of_its_base(tmp_path: Path) -> None:
    given = {
        "a": {"base": "c", "updates": 1},
        "b": {"images": 8, "part": 4, "updates": 5},
        "c": {"base": "b", "part": 2},
    }
    experiments = load_profile({**LEAST, "experiments": experiment_folder(tmp_path / "mine", **given)}).experiments
    assert experiments["a"].finetune == {"images": 8, "part": 2, "updates": 1}
    assert experiments["c"].finetune == {"images": 8, "part": 2, "updates": 5}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no experiments in .*mine: give a folder with a .yaml file for each, or one"),
        ({"a": {"base": "z"}}, "mine/a.yaml has finetune.base z: name another experiment"),
        ({"a": {"base": "a"}}, "mine/a.yaml has finetune.base a"),
        ({"a": {"base": "b"}, "b": {"base": "a"}}, "mine/a.yaml has finetune.base a"),
        ({"a": {"base": "b"}, "b": 3}, "mine/a.yaml has finetune.base b"),
        ({"a": {"base": ["b"]}}, "mine/a.yaml has finetune.base"),
        ({"a": {"update": 3}}, "experiments.a.finetune: unknown key 'update'"),
    ],
)
def test_wrong_experiment_files_are_named(tmp_path: Path, given: dict, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load_profile({**LEAST, "experiments": experiment_folder(tmp_path / "mine", **given)})
    assert "\n" not in str(caught.value)
    (tmp_path / "mine" / "x.yaml").write_text("a: [")
    with pytest.raises(UserError, match="x.yaml is not YAML"):
        load_profile({**LEAST, "experiments": str(tmp_path / "mine")})


def test_with_a_wheel_the_package_has_its_own_files_and_results_go_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, here = tmp_path / "fairnb" / "shipped", tmp_path / "here"
    for folder in (shipped / "data" / "both", here / "data" / "both"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(files, "PACKAGE", tmp_path / "fairnb")
    monkeypatch.chdir(here)
    assert files.root() == shipped and files.workspace() == here
    profile = load_profile({**LEAST, "model": "fairnb:data/both", "guide": "data/both", "prompts": "none.json"})
    assert profile.model == str(shipped / "data/both") and profile.guide[0].model == str(here / "data/both")
    assert profile.prompts == str(here / "none.json") and profile.folder == here / "outputs" / "own"
    assert (
        relative(profile.model_dump())["output"] == str(here / "outputs")
        and relative(profile.model) == "fairnb:data/both"
    )
    assert provenance({})["git_commit"] is None


def test_guide_and_judge_must_differ() -> None:
    with pytest.raises(UserError, match="guide and judge are both me/eyes: name another judge"):
        load_profile({**LEAST, "guide": "me/eyes", "judge": [{"model": "me/other"}, {"model": "me/eyes"}]})


def test_ffd_trains_as_published() -> None:
    ffd = load_profile("ffd")
    keys = ("updates", "images", "semantics_weight", "face_weight", "face_sure")
    published = {
        "exp-1": (10_000, 24, 8, 1, 0.9),
        "exp-2": (10_000, 24, 8, 1, 0.9),
        "exp-3": (15_000, 32, 8, 0.1, 0.8),
        "exp-4": (15_000, 40, 8, 0.1, 0.75),
        "exp-5": (15_000, 40, 8, 0.1, 0.8),
        "exp-6": (12_000, 32, 6, 0.1, 0.9),
    }
    for name, numbers in published.items():
        settings = ffd.finetune_of(name)
        assert tuple(getattr(settings, key) for key in keys) == numbers, name
        assert (settings.optimizer, settings.schedule, settings.learning_rate) == ("adamw", "constant", 5e-5)
        assert (settings.weight_decay, settings.ema, settings.steps) == (0.01, 0.996, [19, 23])
        assert (settings.gradient, settings.gradient_steps, settings.confidence) == ("adjusted", None, 0.8)
    assert [*ffd.experiments["exp-5"].prompts.values()] == [1, 6, 20, 4]


def test_ffd_has_the_guide_of_sd15_and_every_experiment_that_a_notebook_names() -> None:
    ffd, sd15 = load_profile("ffd"), load_profile("sd15")
    assert (ffd.model, ffd.guide, ffd.attributes) == (sd15.model, sd15.guide, sd15.attributes)
    assert not {source.model for source in sd15.guide} & {source.model for source in sd15.judge}
    assert all(may_be_hub_id(source.model) for source in (*sd15.guide, *sd15.judge))
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((root() / "notebooks").glob("[01]*.ipynb")))
    named = {name for name in load_profile("mini").experiments if f'\\"{name}\\"' in code}
    assert {"exp-1", "exp-5", "dacl-joint", "assigned-6", "tokens-3"} < named <= set(sd15.experiments)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sampling.guidance": 5.0}, "key 'sampling.guidance' is now called sampling.guidance_scale"),
        ({"judge_may_guide": True}, "key 'judge_may_guide' was removed"),
        ({"experiments.assigned-1.guidance": {}}, "key 'experiments.assigned-1.guidance' is now called h_guidance"),
        ({"experiments.exp-3.joint": False}, "key 'experiments.exp-3.joint' was removed"),
    ],
)
def test_a_key_of_an_older_version_says_what_became_of_it(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        load_profile("mini", changes)
