"""Loading: the shipped model, and every folder that is not one."""

import re
import shutil

import httpx2
import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from fairnb.diffusion.fingerprint import fingerprint
from fairnb.diffusion.pipeline import encode_prompts, load_pipeline, pick_device, save_pipeline
from fairnb.errors import UserError
from tests.conftest import MINI


def test_mini_sd_loads_without_fairnb_and_draws():
    pipe = StableDiffusionPipeline.from_pretrained(MINI)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a photo of a pilot", num_inference_steps=2).images[0].size == (64, 64)


def test_loaded_frozen_and_encoded_as_the_pipeline_does():
    pipe = load_pipeline(MINI, device="cpu")
    assert not any(w.requires_grad for part in (pipe.unet, pipe.vae, pipe.text_encoder) for w in part.parameters())
    expected, _ = pipe.encode_prompt("a photo of a pilot", "cpu", 1, False)
    torch.testing.assert_close(encode_prompts(pipe, ["a photo of a pilot"]), expected)
    assert pick_device("cpu").type == "cpu"


def test_fingerprint_sees_one_changed_weight():
    unet = load_pipeline(MINI, device="cpu").unet
    before = fingerprint(unet)
    with torch.no_grad():
        unet.conv_in.weight.view(-1)[0] += 1e-4
    assert fingerprint(unet) != before


def test_bad_model_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no model at"):
        load_pipeline(tmp_path / "missing")
    with pytest.raises(UserError, match="model_index.json is missing"):
        load_pipeline(tmp_path)
    for index, says in (
        ('{"_class_name": "StableDiffusionXLPipeline"}', "is a StableDiffusionXLPipeline"),
        ("[", "damaged"),
    ):
        (tmp_path / "model_index.json").write_text(index)
        with pytest.raises(UserError, match=says):
            load_pipeline(tmp_path)
    copy = tmp_path / "cut"
    shutil.copytree(MINI, copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="could not be loaded"):
        load_pipeline(copy)


def test_a_hub_id_without_network_says_what_to_download(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf download some/model --local-dir models/model") as caught:
        load_pipeline("some/model")
    assert "\n" not in str(caught.value)


def hub_error(kind, status, message):
    return kind(message, response=httpx2.Response(status, request=httpx2.Request("GET", "https://hub/some/model")))


def caused(error, cause):
    """`error` with the cause that the libraries give it."""
    error.__cause__ = cause
    return error


REFUSED = hub_error(HfHubHTTPError, 401, "401 Client Error.\n\nInvalid credentials in Authorization header")
BUSY = hub_error(HfHubHTTPError, 503, "503 Server Error.\n\nService Unavailable")
CAUSES = {
    "is gated: accept its terms": hub_error(GatedRepoError, 403, "403 Client Error."),
    "not on the hub, or private": hub_error(RepositoryNotFoundError, 401, "401 Client Error."),
    "has no such revision": hub_error(RevisionNotFoundError, 404, "404 Client Error."),
    "lacks a file on the hub .404 Client": hub_error(
        RemoteEntryNotFoundError, 404, "404 Client Error. model_index.json"
    ),
    "refused by the hub .401 Client Error. Invalid cred": REFUSED,
    "refused by the hub .503 Server Error": caused(LocalEntryNotFoundError("An error happened"), BUSY),
    "fetched .Name or service not known.*'hf download": caused(
        LocalEntryNotFoundError("An error happened"), httpx2.ConnectError("Name or service not known")
    ),
    "fetched .The read operation timed out": httpx2.ReadTimeout("The read operation timed out"),
    "fetched .503 of the proxy": httpx2.ProxyError("503 of the proxy"),
    "fetched .Cannot reach .*offline mode": caused(
        LocalEntryNotFoundError("An error happened"), OfflineModeIsEnabled("Cannot reach it: offline mode is enabled.")
    ),
    "does not fit into memory .CUDA out of memory": torch.OutOfMemoryError("CUDA out of memory. Tried 20 MiB"),
    "does not fit into memory .MemoryError": MemoryError(),
    "could not be loaded: .Errno 28. No space left": OSError(28, "No space left on device"),
    "could not be loaded: Weights only load failed": caused(OSError("Weights only load failed"), ValueError("GLOBAL")),
}


@pytest.mark.parametrize("says", CAUSES)
def test_an_error_of_the_hub_keeps_its_cause(monkeypatch, says):
    def fail(*_, **__):
        raise CAUSES[says]

    def wrapped(*_, **__):
        try:
            fail()
        except Exception:
            raise OSError("Can't load config for 'some/model'")  # noqa: B904 (as diffusers does)

    for raised in (fail, wrapped):
        monkeypatch.setattr("fairnb.diffusion.pipeline.hf_hub_download", raised)
        with pytest.raises(UserError) as caught:
            load_pipeline("some/model")
        if raised is fail or "could not be loaded" not in says:
            assert re.search(f"^the model some/model .*{says}", str(caught.value)), caught.value
    assert sum(bool(re.search(other, str(caught.value))) for other in CAUSES) <= 1


def test_a_model_that_does_not_fit_the_device_is_named(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    monkeypatch.setattr(StableDiffusionPipeline, "to", full)
    with pytest.raises(UserError, match="mini-sd does not fit into memory .*: use dtype bfloat16 or another device"):
        load_pipeline(MINI, device="cpu")


@pytest.fixture
def weights(tiny_base, tmp_path):
    """`weights(safe_serialization=..., variant=...)` saves the tiny model so."""

    def save(**how):
        tiny_base.save_pretrained(tmp_path / "model", **how)
        return tmp_path / "model"

    return save


@pytest.mark.parametrize(
    "how", [{"variant": "fp16"}, {"safe_serialization": False}, {"max_shard_size": "40KB"}], ids=str
)
def test_weights_load_as_they_are_published(tiny_base, weights, how):
    folder = weights(**how)
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").exists() is False
    pipe = load_pipeline(folder, device="cpu")
    for part in ("unet", "vae", "text_encoder"):
        assert fingerprint(getattr(pipe, part)) == fingerprint(getattr(tiny_base, part))


def test_a_variant_is_taken_only_where_there_is_nothing_else(tiny_base, weights):
    folder = weights(variant="fp16")
    before = fingerprint(tiny_base.unet)
    shutil.copytree(folder, other := folder.with_name("other"))
    for file in folder.rglob("*.fp16.safetensors"):
        file.rename(file.with_name(file.name.replace(".fp16", "")))
    wrong = other / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(other / "vae" / "diffusion_pytorch_model.fp16.safetensors", wrong)
    shutil.copy(wrong, folder / "unet" / wrong.name)
    assert fingerprint(load_pipeline(folder, device="cpu").unet) == before
    with pytest.raises(UserError, match="could not be loaded"):
        load_pipeline(other, device="cpu")


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_code_in_weights_does_not_run(weights, capsys):
    folder = weights(safe_serialization=False)
    torch.save({"conv_in.weight": Evil()}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="could not be loaded"):
        load_pipeline(folder, device="cpu")
    assert "code ran" not in capsys.readouterr().out


def test_a_single_file_is_refused_with_the_lines_that_convert_it(tmp_path):
    (tmp_path / "v1-5.safetensors").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        load_pipeline(tmp_path / "v1-5.safetensors")
    _, lines, rest = str(caught.value).split("'")
    compile(lines, "lines", "exec")
    assert 'save_pretrained("models/v1-5")' in lines and rest == ", then name models/v1-5"


def test_a_saved_pipeline_is_whole_or_not_there(tmp_path, monkeypatch):
    pipe = load_pipeline(MINI, device="cpu")
    assert fingerprint(load_pipeline(save_pipeline(pipe, tmp_path / "a" / "model")).unet) == fingerprint(pipe.unet)

    def full(folder, **options):
        folder.mkdir()
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipe, "save_pretrained", full)
    with pytest.raises(UserError, match="cannot be written"):
        save_pipeline(pipe, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
