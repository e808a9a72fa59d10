"""An experiment from its profile to its result: trained, evaluated, not done twice, and summed up over seeds."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fairnb.adapters.full import FullWeights
from fairnb.adapters.neuron_sets import count_neurons, flat_offsets, intersection, load_neurons, read_settings, union
from fairnb.diffusion.fingerprint import fingerprint
from fairnb.errors import UserError
from fairnb.experiments import run
from fairnb.experiments.evaluation import (
    _trained,
    compare_records,
    generate_and_judge,
    named_prompt_rows,
    phrasing_rows,
)
from fairnb.experiments.methods import make_adapter, make_h_guidance, target_shares
from fairnb.experiments.results import read_results, results_table
from fairnb.experiments.run import run_experiment
from fairnb.files import write_json
from fairnb.measure import metrics
from fairnb.measure.records import read_records
from fairnb.profiles import load_profile
from fairnb.prompts.attributes import GENDER
from fairnb.prompts.sets import load_prompt_set
from fairnb.prompts.templates import photo_of
from fairnb.training.locate import mean_gradient
from fairnb.training.loop import save_checkpoint
from tests.adapters.test_h_guidance import classifier as random_classifier

SMALL = {"device": "cpu", "evaluate.images": 2, "evaluate.explicit_images": 1, "locate.k": 0.01}
AGE = {"adapter": "prefix", "shares": {"gender": None, "age": [0.75, 0.25]}, "prompts": ["occupations", "places"]}


def smoke(folder, **experiment):
    finetune = {"acts_from": 0, "updates": 1, "validate_every": 9}
    changes = {"output": str(folder), "experiments": {"one": AGE | {"finetune": finetune} | experiment}}
    return load_profile("smoke", SMALL | changes)


def test_an_experiment_is_trained_evaluated_and_not_done_twice(mini, tmp_path, vision, judge, capsys):
    P = smoke(tmp_path)
    words = load_prompt_set(P.prompts)
    words = words.model_copy(
        update={"contents": words.contents[:1], "occupations": words.occupations | {"test": ["miner"]}}
    )
    before = fingerprint(mini.text_encoder)
    write_json(P.folder / "experiments" / "one" / "plan.json", {"seed": "of a run that was refused"})
    result = run_experiment(mini, vision, judge, words, P, "one")
    assert fingerprint(mini.text_encoder) == before
    assert set(result["kinds"]) == {"occupations", "places"} and result["parameters"] == 5 * 96
    assert result["minutes"] > 0
    compared = result["kinds"]["places"]
    assert list(compared["bias"]) == ["gender", "age", "gender+age"] and list(compared["share"]) == ["gender", "age"]
    folder = P.folder / "experiments"
    taught = read_records(folder / "original" / "trained_places" / "records.parquet")
    assert set(taught.split) == {"train"} and set(taught.seed) == {P.seed + 1}  # noise that no training uses
    assert result["trained"]["places"]["age"]["before"]["mean"] == pytest.approx(
        metrics.summarise(taught, "age")["mean"]
    )
    records = [read_records(folder / name / "places" / "records.parquet") for name in ("original", "one")]
    assert len(records[0]) == 2 * 8
    for when, seen in zip(("before", "after"), records, strict=True):
        old = seen[seen.face].groupby("prompt_id").age.apply(lambda ages: (ages == "old").mean())
        assert compared["share"]["age"][when]["mean"] == pytest.approx(old.mean())
    assert (folder / "one" / "places" / "images" / f"prompt_{records[1].prompt_id[0]}" / "img_1.png").is_file()
    stamp = (folder / "one" / "patch.safetensors").stat().st_mtime_ns
    assert run_experiment(mini, vision, judge, words, P, "one") == result
    assert (folder / "one" / "patch.safetensors").stat().st_mtime_ns == stamp
    for changed, differs in (
        (smoke(tmp_path, tokens=2), "its experiment.tokens was 5 and is 2 now"),
        (P.model_copy(update={"sampling": P.sampling.model_copy(update={"guidance_scale": 4.0})}), "guidance_scale"),
        (P.model_copy(update={"seed": 7}), "its seed was 0 and is 7 now"),
    ):
        with pytest.raises(UserError, match=f"one belongs to another run .*{differs}"):
            run_experiment(mini, vision, judge, words, changed, "one")
    swapped = dataclasses.replace(vision, guide=judge)
    with pytest.raises(UserError, match="it differs in its vision.guide"):
        run_experiment(mini, swapped, judge, words, P, "one")
    assert result["memory"] > 100  # MB
    capsys.readouterr()
    more = P.model_copy(update={"evaluate": P.evaluate.model_copy(update={"images": 3})})
    again = run_experiment(mini, vision, judge, words, more, "one")  # another evaluation of the same training
    assert "its evaluate.images was 2 and is 3 now" in capsys.readouterr().out
    assert (folder / "one" / "patch.safetensors").stat().st_mtime_ns == stamp
    assert again["kinds"]["places"]["bias"]["gender"]["after"]["n_images"] == 3 * 8
    with pytest.raises(UserError, match="no experiment 'two' in profile smoke: use one"):
        P.finetune_of("two")


def test_a_diverged_training_is_a_result_that_says_so(mini, tmp_path, vision, judge, monkeypatch):
    P = smoke(tmp_path, finetune={"acts_from": 0, "updates": 1, "learning_rate": 0.5})
    words = load_prompt_set(P.prompts)
    gradients = []

    def endless(run, prompt, originals, number):
        gradients.append(number)
        return {"loss": float("inf"), "faceless": 0, "to_change": 0}

    monkeypatch.setattr("fairnb.training.alignment.AlignmentRun.gradient", endless)
    result = run_experiment(mini, vision, judge, words, P, "one")
    assert "the loss is inf at update 0: lower the learning rate" in result["diverged"] and "kinds" not in result
    assert run_experiment(mini, vision, judge, words, P, "one") == result and len(gradients) == 1
    read = read_results([P.folder])
    assert read == [result] and results_table(read).empty


def test_neurons_of_several_attributes_are_united_and_located_once(mini, tmp_path, capsys):
    P = smoke(tmp_path, adapter="neurons", shares={"gender": None, "age": None})
    words = load_prompt_set(P.prompts)
    words = words.model_copy(update={"occupations": words.occupations | {"train": ["pilot", "nurse"]}})
    adapter = make_adapter(mini, "one", P, words)
    folder = P.folder / "experiments"
    parts = [load_neurons(folder / f"neurons_{name}.safetensors") for name in ("gender", "age")]
    both = union(*parts)
    assert sum(len(delta) for delta in adapter.parameters()) == sum(len(indices) for indices in both.values())
    assert all(set(part) <= set(both) for part in parts)
    stamp = (folder / "neurons_age.safetensors").stat().st_mtime_ns
    make_adapter(mini, "one", P, words)
    assert (folder / "neurons_age.safetensors").stat().st_mtime_ns == stamp
    fewer = P.model_copy(update={"locate": P.locate.model_copy(update={"k": 0.005})})
    make_adapter(mini, "one", fewer, words)
    assert "neurons_age.safetensors is made anew: its locate.k was 0.01 and is 0.005 now" in capsys.readouterr().out
    assert (folder / "neurons_age.safetensors").stat().st_mtime_ns > stamp


@pytest.mark.parametrize("choice", ["random", "anywhere", "largest", "gradient", "moved"])
def test_a_control_trains_as_many_other_weights(mini, tmp_path, choice):
    words = load_prompt_set(load_profile("smoke").prompts)
    words = words.model_copy(update={"occupations": words.occupations | {"train": ["pilot", "nurse"]}})
    P = smoke(tmp_path, adapter="neurons", shares={"gender": None}, choice=choice, locate={"k": 0.005})
    with pytest.raises(UserError, match="dense/patch.safetensors is missing: run the experiment dense"):
        make_adapter(mini, "one", smoke(tmp_path, adapter="neurons", choice="moved", shares={"gender": None}), words)
    dense = FullWeights(mini, ["unet"])
    wanted = {"conv_in.weight": [0, 3], "conv_out.bias": [1]}
    for name, at in wanted.items():
        dense._values[f"unet.{name}"].flatten()[at] += 9 + torch.arange(len(at))
    dense.save(tmp_path / "smoke" / "experiments" / "dense" / "patch.safetensors", {})
    own = make_adapter(mini, "one", P, words)._indices
    found = load_neurons(P.folder / "experiments" / "neurons_gender_k_0.005.safetensors")
    count, weights = count_neurons(found), dict(mini.unet.named_parameters())
    assert count_neurons(own) == count > 3
    if choice == "random":
        assert {name: len(at) for name, at in own.items()} == {name: len(at) for name, at in found.items()}
    if choice in ("random", "anywhere"):
        assert not intersection(own, found)
    if choice == "largest":
        values = torch.cat([weight.detach().abs().flatten() for weight in mini.unet.parameters()])
        assert min(weights[name].abs().take(at).min() for name, at in own.items()) == values.topk(count).values.min()
    if choice == "gradient":
        place = {"contents": words.contents, "contexts": words.contexts, "timestep": P.locate.timestep}
        gradient = mean_gradient(mini, GENDER, ["pilot", "nurse"], seed=P.seed, **place)
        starts = {name: start for name, (start, _) in flat_offsets(mini.unet).items()}
        flat = torch.cat([at + starts[name] for name, at in own.items()])
        assert flat.tolist() == gradient.topk(count).indices.sort().values.tolist()
    if choice == "moved":
        assert all(set(at) <= set(own[name].tolist()) for name, at in wanted.items())


def test_an_experiment_trains_on_fewer_occupations_than_it_locates_on(mini, tmp_path, vision):
    words = load_prompt_set(load_profile("smoke").prompts)
    P = smoke(tmp_path, adapter="neurons", shares={"gender": None}, prompts=["occupations"], occupations=2)
    run._train(mini, vision, words, P, "one", {})
    two = [words.split("train")[0], words.split("train")[-1]]
    located = read_settings(P.folder / "experiments" / "neurons_gender.safetensors")
    assert located["occupations"] == words.split("train")
    history = pd.read_csv(P.folder / "experiments" / "one" / "history.csv")
    assert set(history.prompt) <= set(map(photo_of, two))
    seen = _trained(words, P.experiments["one"], "occupations")  # the trained ones alone, with their ids of the set
    assert seen.occupation.tolist() == two and seen.prompt_id.tolist() == [0, len(words.split("train")) - 1]


def test_several_shares_are_joint(tmp_path):
    both = smoke(tmp_path).experiments["one"]
    (names, shares), *_ = target_shares(both).items()
    assert names == ("gender", "age")
    np.testing.assert_allclose(shares, [[0.375, 0.125], [0.375, 0.125]])


def test_explicit_prompts_name_every_class_of_some_test_occupations():
    words = load_prompt_set(load_profile("mini").prompts)
    rows = named_prompt_rows(words, "skin_tone")
    assert len(rows) == 4 * 16 and rows.prompt_id.is_unique
    assert set(rows.occupation) < set(words.split("test")) and rows.groupby("asked").size().eq(16).all()
    assert rows[rows.asked == "dark"].prompt.str.startswith("a photo of a dark-skinned ").all()


def test_distance_to_the_target_and_diversity_are_compared_as_well():
    def seen(*classes: tuple[str, str]) -> pd.DataFrame:
        same = {"prompt_id": 0, "prompt": "p", "occupation": "o", "split": "test", "face": True, "seed": 0}
        faces = [{"image": image, "gender": gender, "age": age} for image, (gender, age) in enumerate(classes)]
        return pd.DataFrame([same | face for face in faces])

    before = seen(*[("male", "old")] * 4)
    after = seen(("male", "young"), ("female", "young"), ("male", "old"), ("female", "young"))
    target = {"gender": [0.5, 0.5], "age": [0.75, 0.25]}
    compared = compare_records(before, after, ["gender", "age"], 0, target)
    assert compared["FD"]["gender"] == {"before": pytest.approx(0.5**0.5), "after": 0}
    assert compared["FD"]["age"] == {"before": pytest.approx(1.125**0.5), "after": 0}
    # of the cells (female young, female old, male young, male old): the target is .375, .125, .375, .125
    off = {"before": [0.375, 0.125, 0.375, 0.875], "after": [0.125, 0.125, 0.125, 0.125]}
    for when, parts in off.items():
        assert compared["FD"]["gender+age"][when] == pytest.approx(np.linalg.norm(parts))
    assert compared["diversity"]["gender"] == {"before": 0, "after": 1}
    assert compared["diversity"]["gender+age"]["after"] == pytest.approx(0.75)
    assert compare_records(before, after, ["age"], 0)["FD"]["age"]["after"] == pytest.approx(0.125**0.5)
    none = compare_records(before.assign(face=False), after, ["age"], 0)
    assert none["FD"]["age"].keys() == {"after"}


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ({"shares": {"hair": None}}, "unknown attribute 'hair'"),
        ({"shares": {"gender": [0.5, 0.6]}}, "a share for each of female, male"),
        ({"shares": {"skin_tone": [0.5, 0.5]}}, "a share for each of light, medium, brown, dark"),
        ({"finetune": {"update": 3}}, "experiments.one.finetune: unknown key 'update'"),
        ({"finetune": {"images": 99}}, "pool .8. is smaller than images .99."),
        ({"adapter": "dreambooth"}, "key 'experiments.one.adapter'"),
        ({"tokens": 0}, "key 'experiments.one.tokens'"),
        ({"contrast": {}}, "contrast trains an adapter lora or full, not prefix"),
        ({"adapter": "full", "contrast": {"stages": [["unet"]]}}, "a stage without any of parts .text_encoder.: add"),
    ],
)
def test_wrong_experiments_are_refused_before_anything_starts(experiment, message):
    with pytest.raises(UserError, match=message):
        load_profile("mini", {"experiments": {"one": AGE | experiment}})


def test_guided_experiments_share_a_classifier_which_no_failure_loses(tiny_pipe, tmp_path, monkeypatch, vision, judge):
    guided = {"adapter": "h_guidance", "shares": {"gender": None}, "prompts": ["occupations"]}
    how = {"one": {"images": 4, "reliable": 0.95}, "two": {"images": 4, "strength": 7}, "more": {"images": 5}}
    experiments = {name: guided | {"h_guidance": each} for name, each in how.items()}
    P = load_profile("smoke", {"output": str(tmp_path), "experiments": experiments})
    pipe, words, asked = tiny_pipe(), load_prompt_set(P.prompts), []

    def drawn(pipe, vision, attribute, prompts, images, sampling, seed):
        asked.append(images)
        return {}

    def made(captured, attribute, seed, device):
        return random_classifier(pipe, reliable=(0.5, 0.92))

    monkeypatch.setattr("fairnb.experiments.methods.capture_h", drawn)
    monkeypatch.setattr("fairnb.experiments.methods.h_classifier_from_captured", made)
    with pytest.raises(UserError, match="its best: 0.92, wanted: 0.95"):
        make_h_guidance(pipe, vision, words, P, "one")
    guidance, minutes = make_h_guidance(pipe, vision, words, P, "two")
    assert asked == [4] and guidance.strength == 7 and minutes > 0
    assert make_h_guidance(pipe, vision, words, P, "two")[1] == minutes  # of the training, not of reading its file
    make_h_guidance(pipe, vision, words, P, "more")
    assert asked == [4, 5]
    make_h_guidance(pipe, dataclasses.replace(vision, guide=judge), words, P, "more")  # another guide's classes
    fewer = words.model_copy(update={"occupations": words.occupations | {"train": ["pilot"]}})
    make_h_guidance(pipe, vision, fewer, P, "more")
    assert asked == [4, 5, 5, 5]


def test_a_contrastive_experiment_trains_on_the_triplets_of_its_folder(mini, tmp_path, monkeypatch, vision, judge):
    contrast = {"adapter": "lora", "rank": 2, "shares": {"gender": None}, "prompts": ["occupations"], "contrast": {}}
    P = smoke(tmp_path, **contrast, finetune={"acts_from": 0, "updates": 2, "validate_every": 9, "checkpoint_every": 1})
    words = load_prompt_set(P.prompts)
    words = words.model_copy(
        update={
            "contents": words.contents[:1],
            "occupations": words.occupations | {"train": ["chef"], "test": ["miner"]},
        }
    )
    with pytest.raises(UserError, match="cannot be read as triplets"):
        run_experiment(mini, vision, judge, words, P, "one")
    folder, lines = P.folder / "triplets", []
    folder.mkdir(parents=True)
    for number in range(2):
        for role, word in (("anchor", ""), ("positive", "male "), ("negative", "female ")):
            name = f"{number}_{role}.png"
            Image.new("RGB", (64, 64), (40 * number, 90, 120)).save(folder / name)
            text = f"a photo of a {word}chef"
            lines.append({"file_name": name, "text": text, "triplet": number, "role": role})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def save_and_stop(*about):
        save_checkpoint(*about)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("fairnb.training.loop.save_checkpoint", save_and_stop)
        run_experiment(mini, vision, judge, words, P, "one")
    result = run_experiment(mini, vision, judge, words, P, "one")
    assert result["minutes"] is None  # of a run that was stopped and went on nobody knows them
    assert result["kinds"]["occupations"]["bias"]["gender"]["after"]["n_prompts"] == 1
    history = (P.folder / "experiments" / "one" / "history.csv").read_text()
    assert history.startswith("loss,text,prompt")  # a LoRA of the text encoder has the text term alone


def test_words_in_the_prompt_are_evaluated_like_any_method_and_train_nothing(
    mini, tmp_path, vision, judge, monkeypatch
):
    P = smoke(tmp_path, adapter="words", shares={"gender": [1.0, 0.0]}, prompts=["occupations"])
    words = load_prompt_set(P.prompts)
    words = words.model_copy(
        update={
            "contents": words.contents[:1],
            "occupations": words.occupations | {"train": ["chef"], "test": ["miner"]},
        }
    )
    result = run_experiment(mini, vision, judge, words, P, "one")
    assert (result["parameters"], result["megabytes"], result["minutes"]) == (0, 0.0, None)
    assert result["drift"] == pytest.approx(0, abs=1e-6)
    after = read_records(P.folder / "experiments" / "one" / "occupations" / "records.parquet")
    assert (after.gender == "female").all() and (after.prompt == "a photo of a miner").all()
    elsewhere = read_records(P.folder / "experiments" / "one" / "phrasings" / "records.parquet")
    assert set(elsewhere.prompt) == {
        *(f"a photo of a miner {context}" for context in words.contexts[:2]),
        "a drawing of a miner",
    }
    assert (elsewhere.gender == "female").all() and result["worst"]["after"]["gender"]["mean"] == 1
    assert result["phrasings"]["gender"]["after"]["n_prompts"] == 3
    assert all(0 < value < 1 for value in result["variety"].values())
    fair = json.loads(next((P.folder / "experiments" / "original").glob("words_*/images/generation.json")).read_text())
    judged = P.folder / "experiments" / "original" / "phrasings" / "records.parquet"
    made = judged.stat().st_mtime_ns
    (P.folder / "experiments" / "one" / "result.json").unlink()
    with monkeypatch.context() as patched:  # the same images and judge: nothing is judged again
        patched.setattr("fairnb.experiments.evaluation.judge_images", None)
        assert run_experiment(mini, vision, judge, words, P, "one")["kinds"] == result["kinds"]
    assert judged.stat().st_mtime_ns == made
    generate_and_judge(mini, phrasing_rows(words), judged.parent, vision.detector, judge, P, images=1, seed=P.seed)
    assert len(read_records(judged)) == 3  # other images are
    assert fair["seed"] == P.seed + 1 and fair["prompts"][0]["words"] == ["female"] * P.evaluate.images
