"""What a profile asks of a machine: passes of the U-Net and images, counted from its settings.

The counts are those of the loops that do the work, without what a notebook draws beside them to be looked at.
"""

from collections.abc import Mapping
from typing import NamedTuple

from fairnb.experiments.evaluation import DRIFT_IMAGES, NAMED_OCCUPATIONS, TRAINED_PROMPTS
from fairnb.profiles import Experiment, Finetune, Profile, Sampling
from fairnb.prompts.attributes import get_attribute
from fairnb.prompts.sets import PromptSet


class Work(NamedTuple):
    """`passes` of the U-Net over one image without gradient, `gradients` with it, images `drawn` and looked at by
    classifiers, and images `stored` as files."""

    passes: float = 0
    gradients: float = 0
    drawn: float = 0
    stored: float = 0

    def plus(self, *others: "Work") -> "Work":
        """The sum."""
        return Work(*(sum(values) for values in zip(self, *others, strict=True)))


def total(works: Mapping[str, Work]) -> Work:
    """The sum of several."""
    return Work().plus(*works.values())


def drawing(images: float, sampling: Sampling, stored: bool = False) -> Work:
    """Work of drawing images; classifier-free guidance needs two passes a step."""
    passes = images * sampling.steps * (2 if sampling.guidance_scale > 1 else 1)
    return Work(passes, 0, images, images if stored else 0)


def locating(occupations: int) -> Work:
    """Work of locating bias neurons: three pairs of prompts for each occupation."""
    return Work(0, 6 * occupations)


def training(settings: Finetune, sampling: Sampling, train: int, validation: int) -> Work:
    """Work of one alignment: originals, updates with their reference images, validation."""
    if settings.steps:
        sampling = sampling.model_copy(update={"steps": sum(settings.steps) // 2})
    visits = settings.updates * settings.prompts
    named = visits // settings.named_every if settings.named_every else 0
    references = named + (visits - named) * (0.5 if settings.reference == "named" else 0)  # half of them must change
    images = settings.images * (visits + references + settings.updates // settings.validate_every * validation)
    used = sampling.steps if settings.gradient == "full" else min(settings.gradient_steps or 999, sampling.steps)
    halves = 2 if sampling.guidance_scale > 1 else 1
    gradients = Work(0, visits * settings.images * used * halves)
    return drawing(images + min(visits, train) * settings.pool, sampling).plus(gradients)


def evaluating(profile: Profile, experiment: Experiment, prompts: PromptSet) -> Work:
    """Work of the evaluation of an experiment, without that of the original model, which all share."""
    many, few = profile.evaluate.images, profile.evaluate.explicit_images
    test = sum(len(prompts.prompts("test", [kind])) for kind in experiment.prompts)
    trained = sum(min(TRAINED_PROMPTS, len(prompts.prompts("train", [kind]))) for kind in experiment.prompts)
    some = min(NAMED_OCCUPATIONS, len(prompts.split("test")))
    named = some * sum(len(get_attribute(name).classes) for name in experiment.shares)
    content = len(prompts.contents) * min(DRIFT_IMAGES, many)
    return drawing(test * many + (trained + 3 * some + named) * few + content, profile.sampling, stored=True)


def experiments(profile: Profile, prompts: PromptSet) -> dict[str, Work]:
    """Work of each experiment of a profile."""
    found = {}
    for name, each in profile.experiments.items():
        train, validation = (len(prompts.prompts(split, each.prompts)) for split in ("train", "validation"))
        settings, work = profile.finetune_of(name), evaluating(profile, each, prompts)
        classes = sum(len(get_attribute(attribute).classes) for attribute in each.shares)
        match each.adapter:
            case "words" | "noise" | "class_tokens":
                pass
            case "directions":
                work = work.plus(drawing(train * classes, profile.sampling))
            case "h_guidance":
                images = each.h_guidance.images * (classes + len(each.shares)) * train
                work = work.plus(drawing(images, profile.sampling))
            case _ if each.contrast:
                checks = settings.updates // settings.validate_every * validation * settings.images
                members = 2 if each.contrast.loss == "denoise" else 3
                own = Work(0, settings.updates * settings.images * members)
                work = work.plus(own, drawing(checks, profile.sampling))
            case _:
                work = work.plus(training(settings, profile.sampling, train, validation))
                if each.adapter == "neurons":
                    work = work.plus(*(locating(len(prompts.split("train"))) for _ in each.shares))
        found[name] = work
    return found


def main_path(profile: Profile, prompts: PromptSet) -> dict[str, Work]:
    """Work of the notebooks of the main path that take long."""
    train, validation, test = (len(prompts.split(split)) for split in ("train", "validation", "test"))
    seeds, few = len(profile.evaluate.seeds), profile.evaluate.explicit_images
    measured = (min(profile.measure.occupations, train) + validation) * profile.measure.images
    once = training(profile.finetune, profile.sampling, train, validation)
    classes = len(get_attribute(profile.attribute).classes)
    held_out = 3 * test * profile.evaluate.images * seeds + 2 * (test + min(NAMED_OCCUPATIONS, test) * classes) * few
    return {
        "02": drawing(measured, profile.sampling, stored=True),
        "03": locating(train),
        "05": once.plus(once),
        "06": drawing(held_out, profile.sampling, stored=True),
    }
