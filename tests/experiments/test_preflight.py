"""The preflight names what is missing before hours are spent; what a run costs is counted as the run does it."""

import json

import pytest
import torch

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.diffusion.sampling import noise, sample
from fairnb.experiments.budget import Work, drawing, experiments, locating, main_path, total, training
from fairnb.experiments.preflight import measure_costs, preflight
from fairnb.profiles import Source, load_profile
from fairnb.prompts.attributes import GENDER
from fairnb.prompts.sets import load_prompt_set
from fairnb.training.alignment import AlignmentRun
from fairnb.training.locate import locate
from tests.cli.test_models import call
from tests.conftest import MINI

SMALL = {"device": "cpu", "sampling.steps": 2, "sampling.batch": 2, "finetune.part": 1, "finetune.gradient_steps": 1}
SMALL |= {"finetune.acts_from": 0, "finetune.named_every": None, "finetune.reference": "original"}


class Counted:
    """The passes of a U-Net within the context, counted in images: without and with gradient."""

    def __init__(self, pipe):
        self.unet, self.passes, self.gradients = pipe.unet, 0, 0

    def __enter__(self) -> "Counted":
        self.hook = self.unet.register_forward_pre_hook(self.count)
        return self

    def count(self, _, inputs) -> None:
        if torch.is_grad_enabled():
            self.gradients += len(inputs[0])
        else:
            self.passes += len(inputs[0])

    def __exit__(self, *_) -> None:
        self.hook.remove()


@pytest.mark.parametrize(
    "changes",
    [
        {"updates": 3, "validate_every": 2},
        {"updates": 4, "validate_every": 9, "images": 2, "pool": 3, "gradient": "full"},
        {"updates": 2, "prompts": 2, "validate_every": 2, "gradient_steps": None, "steps": [1, 1]},
    ],
)
def test_passes_are_counted_as_a_training_makes_them(mini, vision, tmp_path, changes):
    P = load_profile("smoke", SMALL | {f"finetune.{key}": value for key, value in changes.items()})
    adapter = BiasNeurons(mini.unet, {"conv_out.weight": torch.arange(200)})
    run = AlignmentRun(mini, adapter, vision, {"gender": [0.5, 0.5]}, P.finetune, P.sampling, seed=0)
    train = [f"a photo of a {name}" for name in ("doctor", "nurse", "teacher")]
    with Counted(mini) as seen:
        run.train(train, ["a photo of a chef"], tmp_path)
    work = training(P.finetune, P.sampling, len(train), 1)
    assert (work.passes, work.gradients) == (seen.passes, seen.gradients)


def test_drawing_and_locating_are_counted_as_they_are(mini):
    P = load_profile("smoke", SMALL)
    with Counted(mini) as seen:
        sample(mini, "a photo of a nurse", noise(mini, "a photo of a nurse", range(5), 0), steps=2, guidance_scale=3.0)
    assert drawing(5, P.sampling) == Work(seen.passes, 0, 5, 0)
    words = {"contents": ["a tree"], "contexts": ["at night", "by the sea"]}
    with Counted(mini) as seen:
        locate(mini, GENDER, ["doctor", "nurse"], k=9, frequency=0.5, timestep=699, seed=0, **words)
    assert locating(2) == Work(0, seen.gradients)


@pytest.mark.parametrize("name", ["mini", "smoke", "sd15", "ffd"])
def test_every_experiment_of_every_profile_is_counted(name):
    P = load_profile(name)
    prompts = load_prompt_set(P.prompts)
    works = main_path(P, prompts) | experiments(P, prompts)
    assert set(works) == {"02", "03", "05", "06", *P.experiments}
    assert all(work.passes + work.gradients > 0 for work in works.values())
    assert total(works).passes == pytest.approx(sum(work.passes for work in works.values()))


def test_what_is_here_is_measured(mini, capsys):
    P = load_profile("smoke", SMALL)
    costs = measure_costs(mini, P, load_prompt_set(P.prompts))
    assert costs.one_gradient > 0 and costs.one_pass > 0 and costs.one_image > 0 and costs.memory > 0.1
    assert costs.hours(Work(3600, 0, 0, 0)) == pytest.approx(costs.one_pass)
    assert 1_000 < costs.stored < 64 * 64 * 3 + 1_000
    assert all(not weight.requires_grad for weight in mini.unet.parameters()) and not hasattr(mini, "applied")
    assert (
        call("check", "--profile", "smoke", *(f"--set={key}={json.dumps(value)}" for key, value in SMALL.items())) == 0
    )
    said = capsys.readouterr().out
    assert "FAIL" not in said and "in one process: 02 " in said and " GB free at " in said and "exp-1 " in said


def test_what_is_missing_is_named_with_a_way_to_get_it(tmp_path):
    labels = {"gender": {"female": "Woman", "male": "gender:male"}}
    P = load_profile("smoke")
    P = P.model_copy(
        update={
            "clip": "nobody/no-such-clip",
            "guide": [Source(model=str(MINI / "guide"), labels=labels)],
            "judge": [Source(model=str(tmp_path / "judge.pt"), labels={"gender": {"female": 0, "male": 1}})],
            "occupation_judge": str(tmp_path / "none"),
        }
    )
    lines = {line.name: line for line in preflight(P)}
    assert lines["model"].good and not any(lines[name].good for name in ("clip", "guide", "judge", "occupation_judge"))
    assert "run 'hf download nobody/no-such-clip'" in lines["clip"].text
    assert "has no label 'Woman'" in lines["guide"].text and "unzip the data.zip" in lines["judge"].text
    assert f"no occupation_judge at {tmp_path / 'none'}" in lines["occupation_judge"].text
    assert lines["time and memory"].good is None and "disk" not in lines
