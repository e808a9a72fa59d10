"""Whole runs of the alignment on the shipped mini-sd: resuming after SIGKILL, several processes, clear failures."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from fairnb.adapters.bias_neurons import BiasNeurons
from fairnb.errors import UserError
from fairnb.training import loop
from tests.training.finetune_run import gender_alignment, run

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "tests.training.finetune_run"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run."""
    torch.set_num_threads(1)  # as in the processes that are killed: the results must be bitwise the same
    folder = tmp_path_factory.mktemp("whole")
    run(folder, {})
    return folder


def test_leaves_patch_and_history_and_no_checkpoint(whole):
    history = pd.read_csv(whole / "history.csv")
    assert history["update"].tolist() == [1, 2, 3, 4]
    assert sorted(history["prompt"].str.split().str[-1]) == ["chef", "chef", "nurse", "nurse"]
    assert history["validation_bias"].notna().sum() == 2
    assert not (whole / "checkpoint.pt").exists()
    values = load_file(whole / "patch.safetensors")
    assert sum(value.abs().sum() for name, value in values.items() if name.endswith(".values")) > 0


@pytest.mark.parametrize("adapter", ["neurons", "lora"])
def test_a_killed_run_resumes_to_the_same_patch(whole, tmp_path_factory, tmp_path, adapter):
    changes = {"finetune.acts_from": 0} if adapter == "lora" else {}
    if adapter == "lora":
        whole = tmp_path_factory.mktemp("lora")
        run(whole, changes, adapter)
    given = [f"adapter={adapter}", *(f"{key}={value}" for key, value in changes.items())]
    process = subprocess.Popen(
        [*COMMAND, tmp_path, *given], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "patch.safetensors").exists()
    run(tmp_path, changes, adapter)
    one, two = (load_file(folder / "patch.safetensors") for folder in (whole, tmp_path))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert (tmp_path / "history.csv").read_text() == (whole / "history.csv").read_text()


def test_a_checkpoint_of_another_run_is_refused(mini, vision, tmp_path, monkeypatch):
    """Killed at one learning rate, target and seed, it silently went on with others."""

    class Killed(Exception):
        pass

    def started(**changes):
        run_ = gender_alignment(mini, vision)
        run_.settings = run_.settings.model_copy(update={"updates": 2, "validate_every": 9, "images": 4, "part": 4})
        return dataclasses.replace(run_, **changes) if changes else run_

    def stopped(*_):
        raise Killed

    def train(run_, words=("a photo of a chef",)):
        run_.gradient = lambda *_: {"loss": 0.0, "faceless": 0, "to_change": 0}
        run_.originals = dict.fromkeys(words)
        return run_.train(list(words), [], tmp_path)

    settings = started().settings
    checkpoint = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        save = loop.save_checkpoint
        patched.setattr(loop, "save_checkpoint", lambda *about: (save(*about), stopped()))
        train(started())
    kept = checkpoint.read_bytes()
    for run_, differs in (
        (started(settings=settings.model_copy(update={"learning_rate": 0.1})), "settings.learning_rate was 0.001 and"),
        (started(shares={"gender": [0.9, 0.1]}), "target.gender was .0.5, 0.5. and is .0.9, 0.1. now"),
        (started(seed=7), "its seed was 0 and is 7 now"),
        (started(vision=dataclasses.replace(vision, clip=vision.guide)), "it differs in its vision.clip"),
        (
            started(adapter=BiasNeurons(mini.unet, {"conv_out.weight": torch.arange(9)})),
            "it differs in its adapter.start",
        ),
    ):
        with pytest.raises(UserError, match=f"checkpoint .* belongs to another run .*{differs}"):
            train(run_)
        assert checkpoint.read_bytes() == kept
    with pytest.raises(UserError, match="it differs in its prompts"):
        train(started(), ["a photo of a nurse"])
    slower = started(settings=settings.model_copy(update={"part": 2, "checkpoint_every": 5}))  # only memory and time
    assert len(train(slower)) == 2 and not checkpoint.exists()


def test_two_processes_give_what_one_gives(whole, tmp_path):
    done = subprocess.run([*TWO, *COMMAND[1:], tmp_path], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("one of 2") == 2
    one, two = (pd.read_csv(folder / "history.csv") for folder in (whole, tmp_path))
    assert one["to_change"].tolist() == two["to_change"].tolist()
    torch.testing.assert_close(torch.tensor(one["loss"]), torch.tensor(two["loss"]), rtol=1e-3, atol=1e-4)


def test_four_processes_on_two_machines_train_what_one_does(tmp_path):
    """Two `torchrun` of two processes each, which meet over the network (here the loopback)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changes = {"face_weight": 1.0, "pool": 6, "updates": 2, "validate_every": 1}
    run(tmp_path / "one", {f"finetune.{key}": value for key, value in changes.items()})
    given = [f"finetune.{key}={value}" for key, value in changes.items()]
    launch = [*TWO[:3], "--nnodes", "2", "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", port]
    machines = [
        subprocess.Popen(
            [*map(str, [*launch, "--node_rank", rank, *COMMAND[1:], tmp_path / "four", *given])],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [machine.communicate() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told[0][1][-2000:] + told[1][1][-2000:]
    assert [out.count("one of 4") for out, _ in told] == [2, 2]
    one, four = (load_file(tmp_path / place / "patch.safetensors") for place in ("one", "four"))
    for key in one:
        torch.testing.assert_close(one[key], four[key], rtol=1e-4, atol=1e-5)
    one, four = (pd.read_csv(tmp_path / place / "history.csv") for place in ("one", "four"))
    assert one["validation_bias"].tolist() == four["validation_bias"].tolist()
    assert len(list((tmp_path / "four").iterdir())) == len(list((tmp_path / "one").iterdir()))


@pytest.mark.parametrize(("gradient", "acts_from"), [("last", 0), ("full", 0), ("full", 500)])
def test_the_other_gradients_train_too(tmp_path, gradient, acts_from):
    changes = {
        "finetune.updates": 1,
        "finetune.gradient": gradient,
        "finetune.acts_from": acts_from,
        "finetune.validate_every": 9,
    }
    run(tmp_path, changes)
    values = load_file(tmp_path / "patch.safetensors")
    assert sum(value.abs().sum() for name, value in values.items() if name.endswith(".values")) > 0


def test_gradient_checkpointing_changes_memory_not_the_result(whole, tmp_path):
    run(tmp_path, {"finetune.gradient_checkpointing": True})
    one, two = (pd.read_csv(folder / "history.csv") for folder in (whole, tmp_path))
    torch.testing.assert_close(torch.tensor(one["loss"]), torch.tensor(two["loss"]), rtol=1e-3, atol=1e-4)


def test_a_diverging_run_stops_with_a_sentence(tmp_path):
    with pytest.raises(UserError, match="pixels that are no numbers.*too high a learning rate"):
        run(tmp_path, {"finetune.learning_rate": 1e30})
    assert not (tmp_path / "patch.safetensors").exists()


def test_a_foreign_checkpoint_is_refused(tmp_path):
    torch.save({"state": {}, "values": [torch.zeros(3)], "optimizer": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="checkpoint.pt does not fit this run"):
        run(tmp_path, {})
