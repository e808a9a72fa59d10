"""A profile: every setting of a run, checked before anything starts.

Profiles are papermill parameter files with the one key `profile`, so `papermill -f notebooks/profiles/mini.yaml` and
`load_profile("mini")` mean the same run. Nothing in the package looks at a profile's name; only its values count.
"""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from fairnb.errors import UserError
from fairnb.files import root
from fairnb.prompts.attributes import get_attribute

# What became of keys of older versions (the whole dotted key, as a regular expression).
RENAMED = {
    r"sampling\.guidance": "is now called sampling.guidance_scale: rename it",
    r"experiments\..+\.guidance": "is now called h_guidance: rename it",
    r"experiments\..+\.joint": "is no longer there, since several shares are always joint: remove it",
    r"judge_may_guide": "is no longer there, since a guide cannot judge what it trained: remove it",
}


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; nobody who writes it means text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(gt=0, lt=1)]
Count = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Timestep = Annotated[int, Field(ge=0, lt=1000)]
Factor = NotNegative | dict[str, NotNegative]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Sampling(_Section):
    """How images are drawn."""

    steps: Count = 10
    guidance_scale: NotNegative = 3.0
    batch: Count = 32


class Measure(_Section):
    """Notebook 02."""

    images: Count = 32  # per prompt, over the train and validation occupations


class Locate(_Section):
    """Notebook 03; `k` is the share of the U-Net's weights kept per prompt pair."""

    k: Share = 0.06
    frequency: Share = 0.65  # of the occupations that must have kept a weight
    timestep: Timestep = 699


class Finetune(_Section):
    """Notebook 05."""

    updates: Count = 60
    images: Count = 24  # per update, all of one prompt
    part: Count = 8  # images per gradient pass: memory, not result
    pool: Count = 24  # different noises per prompt
    gradient_checkpointing: bool = False  # less memory, more time: activations are made again on the way back
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    gradient: Literal["adjusted", "last", "full"] = "adjusted"
    gradient_steps: Count | None = 3  # denoising steps used per gradient; None, or gradient "full": all
    steps: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None  # least and most denoising steps of
    # an update, drawn anew each time (the unchanged model's pictures take the least); None: those of sampling
    acts_from: Timestep = 0  # the change is trained and acts in steps of at least this timestep; 0: in all
    class_weight: NotNegative = 1.0
    semantics_weight: NotNegative = 8.0
    latent_weight: NotNegative = 0.0  # of the squared distance of the latents to their reference's
    reference: Literal["original", "named"] = "original"  # for a class that must change; "named": drawn with its word
    named_every: Count | None = None  # every so manyth prompt names a class, which must still be obeyed
    changed_factor: Factor = 0.2  # weight of both where the class is to change; also one per attribute
    face_box_factor: Factor = 1.0  # of the semantics loss's gradient inside the face's box, where it is to change
    face_weight: NotNegative = 0.0  # of the distance of a face's features to those of a whole face of its class
    confidence: Share = 0.8  # targets below it are left out
    ema: Share = 0.99
    validate_every: Count = 15
    checkpoint_every: Count = 15
    patience: Count = 4  # validations without improvement before the early stop

    @model_validator(mode="after")
    def _fits(self) -> "Finetune":
        if self.part > self.images:
            raise ValueError(f"part ({self.part}) is larger than images ({self.images})")
        if self.acts_from and self.gradient != "adjusted":
            raise ValueError(
                f"acts_from ({self.acts_from}) needs gradient: adjusted, since '{self.gradient}' uses the late steps"
            )
        if self.pool < self.images:
            raise ValueError(f"pool ({self.pool}) is smaller than images ({self.images})")
        return self


class Evaluate(_Section):
    """Notebooks 06 and 07."""

    images: Count = 64  # per test prompt and seed
    explicit_images: Count = 16  # per "a photo of a male ..." prompt
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]


class HGuidanceSettings(_Section):
    """Notebook 12: guided sampling, and the pictures from which its classifiers are trained."""

    images: Count = 12  # per train prompt and class
    mode: Literal["distribution", "sample", "assigned"] = "distribution"  # see `adapters.h_guidance`
    divergence: Literal["kl", "chi2"] = "kl"
    strength: NotNegative = 100.0  # in logits
    reliable: NotNegative = 0.9  # a step whose classifier ranks two pictures of a prompt worse is left alone


class Contrast(_Section):
    """Notebook 11: training on triplets of pictures instead of on shares."""

    loss: Literal["contrastive", "denoise"] = "contrastive"  # the paper's; or the augmented pictures, without contrast
    shared: bool = True  # noise and timestep drawn once a triplet; false: for each member, as published
    stages: Annotated[list[list[Literal["text_encoder", "unet"]]], Field(min_length=1)] = [["text_encoder", "unet"]]

    # the parts that are trained, one after the other for equally many updates


class Experiment(_Section):
    """Notebooks 08 to 12: an adapter, the shares that are wanted, and what differs from the profile's `finetune`."""

    adapter: Literal["neurons", "lora", "prefix", "h_guidance", "words"]  # words: of classes, drawn into the prompts
    parts: Annotated[list[Literal["text_encoder", "unet"]], Field(min_length=1)] = ["text_encoder"]  # a LoRA's
    rank: Count = 8  # a LoRA's
    tokens: Count = 5  # of a prefix
    shares: Annotated[
        dict[str, list[Real] | None], Field(min_length=1)
    ]  # per attribute, in order of classes; null: equal
    prompts: Annotated[list[str], Field(min_length=1)] = ["occupations"]  # kinds of the prompt set
    finetune: dict[str, Any] = {}
    h_guidance: HGuidanceSettings = HGuidanceSettings()
    contrast: Contrast | None = None  # train on the triplets of notebook 11; `shares` then only names the attributes

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


def _absolute_when_local(path: str | None) -> str | None:
    return str(root() / path) if path and (root() / path).exists() else path


LocalOrHub = Annotated[str, AfterValidator(_absolute_when_local)]  # a folder, absolute once loaded, or a hub id


class Source(_Section):
    """Where a classifier comes from, and which of its labels mean which class.

    `labels`: attribute -> class -> label in the model's id2label, text for CLIP, or column of a MobileNetV3 file; or a
    list of them. Not needed where the model's own labels are written attribute:class.
    """

    model: LocalOrHub
    revision: str | None = None
    labels: dict[str, dict[str, str | int | list[str | int]]] | None = None


def _sources(value: Any) -> Any:
    """`guide: folder`, one mapping or a list of either."""
    values = value if isinstance(value, list) else [value]
    return [{"model": each} if isinstance(each, str) else each for each in values]


Sources = Annotated[list[Source], BeforeValidator(_sources), Field(min_length=1)]


class Profile(_Section):
    """All settings of a run. Paths are absolute once loaded; a hub id stays as it is."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    model: LocalOrHub
    revision: str | None = None
    device: str | None = None  # None: cuda, mps or cpu, whichever is there
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prompts: str
    clip: LocalOrHub
    dino: LocalOrHub | None = None  # a second encoder for the semantics loss, as FFD's
    guide: Sources
    judge: Sources
    occupation_judge: LocalOrHub | None = None
    attribute: str = "gender"
    attributes: Annotated[list[str], Field(min_length=1)] = ["gender"]
    photographs: str | None = None  # notebook 11: a folder of pictures with captions; null: the mini world draws some
    seed: Seed = 0
    output: Annotated[str, Field(validate_default=True)] = "outputs"
    sampling: Sampling = Sampling()
    measure: Measure = Measure()
    locate: Locate = Locate()
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    experiments: dict[str, Experiment] = {}

    @property
    def folder(self) -> Path:
        """Where this profile's artefacts go (absolute)."""
        return Path(self.output) / self.name

    @field_validator("attribute")
    @classmethod
    def _known(cls, name: str) -> str:
        return get_attribute(name).name

    @field_validator("attributes")
    @classmethod
    def _all_known(cls, names: list[str]) -> list[str]:
        return [get_attribute(name).name for name in names]

    @field_validator("output", "prompts", "photographs")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return str(root() / path) if path else None

    @model_validator(mode="after")
    def _consistent(self) -> "Profile":
        if self.attribute not in self.attributes:
            raise ValueError(f"attribute '{self.attribute}' is not among attributes ({', '.join(self.attributes)})")
        shared = {source.model for source in self.guide} & {source.model for source in self.judge}
        if shared:
            raise ValueError(f"guide and judge are both {min(shared)}: name another judge, or it judges its own pupil")
        if (self.finetune.gradient_steps or 0) > self.sampling.steps:
            raise ValueError(f"finetune.gradient_steps exceeds sampling.steps ({self.sampling.steps})")
        for name in self.experiments:
            try:
                self.finetune_of(name)
            except ValidationError as error:
                raise ValueError(f"experiments.{name}.finetune: {_explain(error.errors()[0])}") from error
        return self

    def finetune_of(self, name: str) -> Finetune:
        """The fine-tuning settings of an experiment; `UserError` when there is none of this name."""
        if name not in self.experiments:
            raise UserError(
                f"no experiment '{name}' in profile {self.name}: use {', '.join(self.experiments) or 'none'}"
            )
        return Finetune.model_validate(self.finetune.model_dump() | self.experiments[name].finetune)


def load_profile(profile: str | Path | dict, overrides: dict[str, Any] | None = None) -> Profile:
    """The profile named (a name in notebooks/profiles, a YAML file or a mapping), with dotted overrides put in.

    `load_profile("mini", {"finetune.updates": 10})`. `UserError` names the file, the key and what would be valid.
    """
    source, values = _read(profile)
    for key, value in (overrides or {}).items():
        _put(values, str(key).split("."), value, source)
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error.errors()[0])}") from error


def _read(profile: str | Path | dict) -> tuple[str, dict]:
    if isinstance(profile, dict):
        return "profile", _copy(profile)
    folder = root() / "notebooks" / "profiles"
    path = Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{profile}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            raise UserError(f"no profile named '{profile}': use one of {names}, or the path of a .yaml file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"profile {path} cannot be read ({error}): give the path of a .yaml file") from error
    except yaml.YAMLError as error:
        raise UserError(f"profile {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict) or list(values) != ["profile"] or not isinstance(values["profile"], dict):
        raise UserError(f"profile {path} must hold one mapping under the single key 'profile': see mini.yaml")
    return f"profile {path}", _copy(values["profile"])


def _copy(values: dict) -> dict:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in values.items()}


def _put(values: dict, keys: list[str], value: Any, source: str) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UserError(f"{source}: override '{'.'.join(keys)}' goes into '{key}', which is a single value")
    values[keys[-1]] = value


def _explain(error: dict) -> str:
    keys = [str(part) for part in error["loc"] if "[" not in str(part)]  # pydantic names the kinds a value may have
    name = ".".join(keys)
    if error["type"] == "extra_forbidden":
        if new := next((new for old, new in RENAMED.items() if re.fullmatch(old, name)), None):
            return f"key '{name}' {new}"
        near = get_close_matches(name, valid_keys(), 1, cutoff=0.4)
        return f"unknown key '{name}'" + (f", did you mean '{near[0]}'" if near else ": remove it")
    if error["type"] == "missing":
        return f"key '{name}' is missing: add it, see notebooks/profiles/mini.yaml"
    reason = error["msg"].removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    if error["type"] == "value_error":
        return f"{name}: {reason}" if name else reason
    return f"key '{name}' is {error['input']!r}, but {reason}"


def valid_keys() -> list[str]:
    """Every key of a profile, dotted."""
    keys = []
    for name, field in Profile.model_fields.items():
        keys.append(name)
        if isinstance(field.default, _Section):
            keys.extend(f"{name}.{inner}" for inner in type(field.default).model_fields)
    return keys
