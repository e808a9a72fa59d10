"""Profiles: all settings of a run, validated before the run starts.

A profile is a papermill parameter file with the single key `profile`, so `papermill -f notebooks/profiles/mini.yaml`
and `load_profile("mini")` give the same run. Its `experiments` are the files of a folder, one experiment each. Nothing
in the package depends on a profile's name.
"""

import re
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from fairnb.errors import UserError, explain_invalid
from fairnb.files import SHIPPED, resolve, root, workspace
from fairnb.prompts.attributes import get_attribute

# Keys of older versions (a regular expression for the whole dotted key) and what to do about them.
RENAMED = {
    r"sampling\.guidance": "is now called sampling.guidance_scale: rename it",
    r"experiments\..+\.guidance": "is now called h_guidance: rename it",
    r"experiments\..+\.joint": "was removed because several shares are always joint: delete it",
    r"judge_may_guide": "was removed because a guide must not judge what it trained: delete it",
}


def _number(value: Any) -> Any:
    """Convert text such as 1e-3, which YAML 1.1 does not read as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(gt=0, lt=1)]
Portion = Annotated[Real, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Timestep = Annotated[int, Field(ge=0, lt=1000)]
Factor = NotNegative | dict[str, NotNegative]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Sampling(_Section):
    """How images are generated."""

    steps: Count = 10
    guidance_scale: NotNegative = 3.0
    batch: Count = 32


class Measure(_Section):
    """Notebook 02."""

    images: Count = 32  # per prompt
    occupations: Count = 32  # of the train occupations, evenly spaced, at most as many; and every validation occupation


class Locate(_Section):
    """Notebook 03: how bias neurons are located."""

    k: Share = 0.06  # share of the U-Net's weights kept per prompt pair
    frequency: Share = 0.65  # share of occupations that must have kept a weight
    timestep: Timestep = 699
    noises: Literal["one", "each"] = "one"  # for all occupations (as published), or for each its own
    tensors: str = ""  # a regular expression for the names of the tensors whose weights count; "": all

    @field_validator("tensors")
    @classmethod
    def _expression(cls, tensors: str) -> str:
        try:
            return re.compile(tensors).pattern
        except re.error as error:
            raise ValueError(f"tensors ({tensors}) is no regular expression: {error}") from error


class Finetune(_Section):
    """Notebook 05: distribution alignment."""

    updates: Count = 60
    prompts: Count = 1  # per update, whose gradient is their mean
    images: Count = 24  # of each prompt
    part: Count = 8  # images per gradient pass; changes memory, not the result
    pool: Count = 24  # different noises per prompt
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: less memory, more time
    learning_rate: Positive = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd: with momentum .9 (BN, Bias Neurons)
    schedule: Literal["linear", "constant", "steps"] = "linear"  # steps: times .2 after each fifth of the updates (BN)
    weight_decay: NotNegative = 0.0
    gradient: Literal["adjusted", "last", "full"] = "adjusted"
    gradient_steps: Count | None = 3  # denoising steps used per gradient; None, or gradient "full": all
    # Bounds of an update's denoising steps, drawn anew each time; references have the lower. None: those of `sampling`.
    steps: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    acts_from: Timestep = 0  # trained in timesteps >= this one, and of neurons active there alone; 0: in all
    class_weight: NotNegative = 1.0
    semantics_weight: NotNegative = 8.0
    latent_weight: NotNegative = 0.0  # of the squared distance between latents and reference latents
    reference: Literal["original", "named"] = "original"  # of an image that must change; named: that of the class word
    named_every: Count | None = None  # every n-th prompt names classes, which must still be obeyed
    changed_factor: Factor = 0.2  # of both where no confident target is the original's class; one, or one per attribute
    face_box_factor: Factor = 1.0  # the same for the semantics gradient inside the face, new and original
    face_weight: NotNegative = 0.0  # of the distance between a face's features and those of a clear face of its class
    face_sure: Share = 0.9  # the least probability of the class of such a clear face
    faceless_weight: NotNegative = 0.0  # of the change in the number of images without a face (BN): it has no gradient
    confidence: Portion = 0.8  # targets with a lower confidence are ignored; 0: none is
    ema: Portion = 0.99  # decay of the moving average of the weights, which becomes the patch; 0: no average
    validate_every: Count = 15
    checkpoint_every: Count = 15
    patience: Count = 4  # validations without improvement before training stops early

    @model_validator(mode="after")
    def _fits(self) -> "Finetune":
        if self.part > self.images:
            raise ValueError(f"part ({self.part}) is larger than images ({self.images})")
        if self.acts_from and self.gradient == "last":
            raise ValueError(f"acts_from ({self.acts_from}) needs gradient adjusted or full: last uses late steps")
        if self.pool < self.images:
            raise ValueError(f"pool ({self.pool}) is smaller than images ({self.images})")
        return self


# Settings of `Finetune` that change memory, time or safety, but not the result beyond rounding.
WITHOUT_EFFECT = ("part", "gradient_checkpointing", "checkpoint_every")


class Evaluate(_Section):
    """Notebooks 06 and 07."""

    images: Count = 64  # per test prompt and seed
    explicit_images: Count = 16  # per named prompt, such as "a photo of a male doctor"
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]


class HGuidanceSettings(_Section):
    """Notebook 12: h-guidance (Parihar et al., CVPR 2024) and the images that train its classifiers."""

    images: Count = 12  # per train prompt and class
    mode: Literal["distribution", "sample", "assigned"] = "distribution"  # see `adapters.h_guidance`
    divergence: Literal["kl", "chi2"] = "kl"
    strength: NotNegative = 100.0  # in logits
    raw: bool = False  # strength multiplies the gradient itself, as published, and so depends on the classifier
    both: bool = False  # guide the empty prompt's half of classifier-free guidance, too, as published
    reliable: NotNegative = 0.9  # steps whose classifier ranks a smaller share of image pairs correctly are not guided


class Contrast(_Section):
    """Notebook 11: training on triplets of images (DACL) instead of target shares."""

    loss: Literal["contrastive", "denoise"] = "contrastive"  # the paper's; or the same images without the contrast
    shared: bool = True  # one noise and timestep per triplet; False: one per member, as published
    perturbation: NotNegative = 0.0  # of the noise that is added to the images, as a share of it; published .1
    flips: bool = False  # mirror images at random, as published
    # Parts that are trained, one stage after the other, with equally many updates each and the terms that concern them.
    stages: Annotated[list[list[Literal["text_encoder", "unet"]]], Field(min_length=1)] = [["text_encoder", "unet"]]


class Experiment(_Section):
    """Notebooks 08 to 12: an adapter ("words", "noise": in the prompts alone), target shares, changes of `finetune`."""

    adapter: Literal["neurons", "lora", "full", "prefix", "h_guidance", "directions", "class_tokens", "words", "noise"]
    parts: Annotated[list[Literal["text_encoder", "unet"]], Field(min_length=1)] = ["text_encoder"]  # of lora and full
    rank: Count = 8  # of a LoRA
    tokens: Count = 5  # of a prefix
    # Of neurons: those found, or as many others, as `experiments.methods` chooses them.
    choice: Literal["found", "random", "anywhere", "largest", "gradient", "moved"] = "found"
    locate: dict[str, Any] = {}  # of neurons: the differences from the profile's `locate`
    # Target shares per attribute, in the order of its classes; None: equal. With `contrast` only the names count.
    shares: Annotated[dict[str, list[Real] | None], Field(min_length=1)]
    # Kinds of the prompt set; a mapping says how often each prompt of a kind comes in a round of the training.
    prompts: Annotated[list[str] | dict[str, Count], Field(min_length=1)] = ["occupations"]
    occupations: Count | None = None  # that it trains on, evenly spaced (neurons are located on all); None: all
    finetune: dict[str, Any] = {}
    h_guidance: HGuidanceSettings = HGuidanceSettings()
    contrast: Contrast | None = None

    @field_validator("shares")
    @classmethod
    def _distributions(cls, shares: dict[str, list[float] | None]) -> dict[str, list[float]]:
        whole = {}
        for name, wanted in shares.items():
            classes = get_attribute(name).classes
            whole[name] = [1 / len(classes)] * len(classes) if wanted is None else wanted
            if len(whole[name]) != len(classes) or min(whole[name]) < 0 or abs(sum(whole[name]) - 1) > 1e-3:
                raise ValueError(f"{name}: {wanted} must be a share for each of {', '.join(classes)}, with sum 1")
        return whole

    @model_validator(mode="after")
    def _trains(self) -> "Experiment":
        stages = self.contrast.stages if self.contrast else []
        if stages and self.adapter not in ("lora", "full"):
            raise ValueError(f"contrast trains an adapter lora or full, not {self.adapter}: change one of them")
        if not all(set(stage) & set(self.parts) for stage in stages):
            raise ValueError(f"contrast.stages has a stage without any of parts ({', '.join(self.parts)}): add one")
        return self


# Keys that hold a path. What is not found under the first may be the hub id of a model.
MODELS = ("model", "clip", "dino", "occupation_judge", "guide", "judge")
PATHS = ("prompts", "photographs", "experiments", "output")


class Source(_Section):
    """A classifier, and which of its labels mean which class.

    `labels` maps attribute -> class -> label, or a list of labels: a name of the model's id2label, a text for CLIP, or
    a column of a MobileNetV3 file. Not needed if the model's own labels have the form attribute:class.
    """

    model: str
    revision: str | None = None
    labels: dict[str, dict[str, str | int | list[str | int]]] | None = None


def _sources(value: Any) -> Any:
    """Accept a folder, a mapping, or a list of either."""
    values = value if isinstance(value, list) else [value]
    return [{"model": each} if isinstance(each, str) else each for each in values]


Sources = Annotated[list[Source], BeforeValidator(_sources), Field(min_length=1)]


def _experiments(value: Any) -> Any:
    """Read a folder of experiment files, whose stems are the names, in their order; or one file, a mapping by name.

    `finetune: {base: NAME, ...}` copies the `finetune` of another experiment in the folder and then changes it.
    """
    if not isinstance(value, str):
        return value
    files = sorted(Path(value).glob("*.yaml"), key=lambda file: file.stem)
    whole = _read_yaml(Path(value)) if Path(value).is_file() else {file.stem: _read_yaml(file) for file in files}
    if not whole:
        raise UserError(f"no experiments in {value}: give a folder with a .yaml file for each, or one file for all")
    experiments = {str(name): values if isinstance(values, dict) else {} for name, values in whole.items()}
    for name, values in experiments.items():
        seen = [name]
        while isinstance(own := values.get("finetune"), dict) and "base" in own:
            base = str(own["base"])
            if base in seen or not isinstance(experiments.get(base, {}).get("finetune"), dict):
                why = "name another experiment of the folder with finetune"
                where = f"{value}: {name}" if Path(value).is_file() else f"{value}/{name}.yaml"
                raise UserError(f"{where} has finetune.base {base}: {why}")
            seen.append(base)
            values["finetune"] = experiments[base]["finetune"] | {key: own[key] for key in own if key != "base"}
    return experiments


class Profile(_Section):
    """All settings of a run; `load_profile` makes its paths absolute."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    model: str
    revision: str | None = None
    device: str | None = None  # None: cuda, mps or cpu, the first that is available
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prompts: str
    clip: str
    dino: str | None = None  # a second encoder for the semantics loss, as in FFD
    guide: Sources
    judge: Sources
    occupation_judge: str | None = None
    attribute: str = "gender"
    attributes: Annotated[list[str], Field(min_length=1)] = ["gender"]
    photographs: str | None = None  # notebook 11: a folder of photographs with captions; None: the mini world's
    seed: Seed = 0
    output: str = "outputs"
    sampling: Sampling = Sampling()
    measure: Measure = Measure()
    locate: Locate = Locate()
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    experiments: Annotated[dict[str, Experiment], BeforeValidator(_experiments)] = {}  # or their folder or file

    @property
    def folder(self) -> Path:
        """The output folder of this profile (absolute)."""
        return Path(self.output) / self.name

    @field_validator("attribute", "attributes")
    @classmethod
    def _known(cls, names: str | list[str]) -> str | list[str]:
        return get_attribute(names).name if isinstance(names, str) else [get_attribute(name).name for name in names]

    @model_validator(mode="after")
    def _consistent(self) -> "Profile":
        if self.attribute not in self.attributes:
            raise ValueError(f"attribute '{self.attribute}' is not among attributes ({', '.join(self.attributes)})")
        shared = {source.model for source in self.guide} & {source.model for source in self.judge}
        if shared:
            raise ValueError(
                f"guide and judge are both {min(shared)}: name another judge, since a guide must not judge"
            )
        for name in self.experiments:
            for key, of in (("finetune", self.finetune_of), ("locate", self.locate_of)):
                try:
                    of(name)
                except ValidationError as error:
                    raise ValueError(f"experiments.{name}.{key}: {_explain(error)}") from error
        return self

    def finetune_of(self, name: str) -> Finetune:
        """Return the fine-tuning settings of an experiment; `UserError` for an unknown name."""
        if name not in self.experiments:
            raise UserError(
                f"no experiment '{name}' in profile {self.name}: use {', '.join(self.experiments) or 'none'}"
            )
        return Finetune.model_validate(self.finetune.model_dump() | self.experiments[name].finetune)

    def locate_of(self, name: str) -> Locate:
        """Return how the neurons of an experiment are located."""
        return Locate.model_validate(self.locate.model_dump() | self.experiments[name].locate)


def load_profile(profile: str | Path | dict, overrides: dict[str, Any] | None = None) -> Profile:
    """Load and validate a profile: a name in notebooks/profiles, a YAML file or a mapping.

    `overrides` change single values by their dotted key: `load_profile("mini", {"finetune.updates": 10})`. Relative
    paths start at the folder of the YAML file; in a mapping and in overrides at the current folder; in a named profile
    at the workspace. What begins with "fairnb:" comes with the package. `UserError` names the file, the key and what
    would be valid.
    """
    source, values, folder = _read(profile)
    values = {key: _absolute(key, value, folder) for key, value in {"output": "outputs", **values}.items()}
    if "experiments" in values:
        values["experiments"] = _experiments(values["experiments"])
    for key, value in (overrides or {}).items():
        _put(values, str(key).split("."), _absolute(str(key), value, Path.cwd()), source)
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from error


def _absolute(key: str, value: Any, folder: Path) -> Any:
    """The value of a profile's key with its paths made absolute; a model that is no path here may be a hub id."""
    if key in MODELS and isinstance(value, list):
        return [_absolute(key, each, folder) for each in value]
    if key in MODELS and isinstance(value, dict) and "model" in value:
        return value | {"model": _absolute("model", value["model"], folder)}
    if not isinstance(value, str) or not value or key not in (*MODELS, *PATHS):
        return value
    path = resolve(value, folder)
    return str(path) if key in PATHS or value.startswith(SHIPPED) or path.exists() else value


def _read(profile: str | Path | dict) -> tuple[str, dict, Path]:
    """What to call the profile, its values, and the folder where its relative paths start."""
    if isinstance(profile, dict):
        return "profile", deepcopy(profile), Path.cwd()
    folder = root() / "notebooks" / "profiles"
    path = Path(profile)
    named = path.suffix not in (".yaml", ".yml")
    if named:
        path = folder / f"{profile}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            raise UserError(f"no profile named '{profile}': use one of {names}, or the path of a .yaml file")
    values = _read_yaml(path)
    if list(values) != ["profile"] or not isinstance(values["profile"], dict):
        raise UserError(f"profile {path} must hold one mapping under the single key 'profile': see mini.yaml")
    return f"profile {path}", values["profile"], workspace() if named else path.absolute().parent


def _read_yaml(path: Path) -> dict:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"profile {path} cannot be read ({error}): give the path of a .yaml file") from error
    except yaml.YAMLError as error:
        raise UserError(f"profile {path} is not YAML: {' '.join(str(error).split())}") from error
    return values if isinstance(values, dict) else {}


def _put(values: dict, keys: list[str], value: Any, source: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"{source}: override '{'.'.join(keys)}' goes into '{key}', which is a single value")
    values[keys[-1]] = value


def _explain(error: ValidationError) -> str:
    return explain_invalid(error.errors()[0], valid_keys(), RENAMED)


def valid_keys() -> list[str]:
    """Return all dotted keys of a profile."""
    keys = []
    for name, field in Profile.model_fields.items():
        inner = type(field.default).model_fields if isinstance(field.default, _Section) else ()
        keys += [name, *(f"{name}.{each}" for each in inner)]
    return keys
