"""Kinds of models and schedulers that the sampling loop draws as diffusers does; the others are refused."""

from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from fairnb.errors import UserError

# They draw no noise of their own: that of an image must not depend on the batch, the process or the order.
SCHEDULERS = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
# The noise of Stable Diffusion's training, which everything but the drawing itself relies on, too.
NOISE = {
    "prediction_type": ("epsilon", "v_prediction"),
    "timestep_type": ("discrete",),
    "use_flow_sigmas": (False,),
}
PARTS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
# Inputs beside latents, timestep and prompt, which only other pipelines give.
FURTHER_INPUTS = {
    "time_cond_proj_dim": "is distilled with its guidance",
    "class_embed_type": "needs a class",
    "num_class_embeds": "needs a class",
    "addition_embed_type": "needs further embeddings, as SDXL's does",
    "encoder_hid_dim_type": "needs another encoder",
}
# Their steps take two predictions, one of which weighs too much, too little or nothing.
TWO_CALLS = ("DPMSolverSinglestepScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler")
# What breaks the sampler's linearity, the even spacing of timesteps, or a noise schedule whose last alphas are not 0.
NOT_ADJUSTED = (
    "clip_sample",
    "thresholding",
    "rescale_betas_zero_snr",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)


def check_pipeline(pipe: StableDiffusionPipeline, model: str) -> None:
    """`UserError` if `pipe`, loaded from `model`, is no plain Stable Diffusion 1.x/2.x with an accepted scheduler."""
    for part, kind in PARTS.items():
        if type(getattr(pipe, part)) is not kind:
            raise UserError(f"the {part} of {model} is a {type(getattr(pipe, part)).__name__}: use a {kind.__name__}")
    unet = pipe.unet.config
    for key, why in FURTHER_INPUTS.items():
        if unet.get(key) is not None:
            raise UserError(
                f"the U-Net of {model} {why} ({key} in unet/config.json is {unet[key]}): use a plain 1.x or 2.x model"
            )
    channels = pipe.vae.config.latent_channels
    if not unet.in_channels == unet.out_channels == channels:
        raise UserError(
            f"the U-Net of {model} takes {unet.in_channels} channels and gives {unet.out_channels}, but latents have "
            f"{channels}, as for inpainting or editing: use a text-to-image model"
        )
    width = pipe.text_encoder.config.hidden_size
    if unet.cross_attention_dim != width:
        raise UserError(
            f"the U-Net of {model} needs prompts of width {unet.cross_attention_dim}, but its text encoder gives "
            f"{width}: copy both from one model"
        )
    if not unet.sample_size:
        raise UserError(f"unet/config.json of {model} lacks sample_size: add the height of the latents, such as 64")
    if getattr(pipe.text_encoder.config, "use_attention_mask", False):
        raise UserError(f"text_encoder/config.json of {model} has use_attention_mask, which no 1.x or 2.x model has")
    check_scheduler(pipe.scheduler)


def check_scheduler_class(name: str) -> None:
    """`UserError` for a scheduler that draws noise of its own or is not for Stable Diffusion."""
    if name not in SCHEDULERS:
        other = name.replace("Ancestral", "")
        raise UserError(
            f"the scheduler {name} draws noise of its own or is not for Stable Diffusion, so that images could not be "
            f'compared: under "scheduler" in model_index.json write '
            f"{other if other in SCHEDULERS else 'DDIMScheduler'} in its place"
        )


def check_scheduler(scheduler: SchedulerMixin) -> None:
    """`UserError` for a scheduler that draws noise of its own, or with another noise than Stable Diffusion's."""
    name, config = type(scheduler).__name__, scheduler.config
    check_scheduler_class(name)
    where = "scheduler/scheduler_config.json"
    if "sde" in config.get("algorithm_type", ""):
        raise UserError(
            f"{name} draws noise of its own with algorithm_type {config.algorithm_type}, so that images could not be "
            f'compared: write "dpmsolver++" in {where}'
        )
    for key, values in NOISE.items():
        if config.get(key, values[0]) not in values:
            raise UserError(
                f"{key} in {where} is {config[key]}, but a Stable Diffusion 1.x or 2.x has "
                f"{' or '.join(map(str, values))}: use such a model"
            )


def check_adjusted(scheduler: SchedulerMixin) -> None:
    """`UserError` for a scheduler for which FFD's factors do not balance the noise predictions.

    They belong to samplers that are linear in the prediction, with one prediction a step and evenly spaced timesteps.
    """
    name, config = type(scheduler).__name__, scheduler.config
    wrong = [f"{key}: true" for key in NOT_ADJUSTED if config.get(key)]
    if name == "PNDMScheduler":  # its Runge-Kutta steps take four predictions, and it adds up v of different noise
        wrong += [] if config.skip_prk_steps else ["skip_prk_steps: false"]
        wrong += ["prediction_type: v_prediction"] if config.prediction_type == "v_prediction" else []
    if name in TWO_CALLS or wrong:
        raise UserError(
            f"gradient adjusted is not defined for {name}{' with ' if wrong else ''}{', '.join(wrong)}: use "
            "DPMSolverMultistepScheduler or DDIMScheduler with evenly spaced timesteps, or gradient: full or last"
        )
