"""Classifiers load from transformers folders, group their labels, and give gradients."""

import pytest
import torch

from fairnb.classifiers import load_classifier
from fairnb.errors import UserError
from fairnb.miniworld import models
from tests.conftest import MINI


@pytest.mark.parametrize("make", [models.resnet, models.convnext])
def test_logits_are_grouped_by_attribute(tmp_path, make):
    model = make(models.attribute_labels(), 48).eval()
    model.save_pretrained(tmp_path)
    classifier = load_classifier(tmp_path)
    assert classifier.classes == {
        "gender": ("female", "male"),
        "skin_tone": ("light", "medium", "brown", "dark"),
        "age": ("young", "old"),
    }
    images = torch.rand(3, 3, 48, 48, requires_grad=True)
    logits = classifier(images)
    torch.testing.assert_close(torch.cat([logits[a] for a in classifier.classes], 1), model(images).logits)
    logits["gender"].sum().backward()
    assert images.grad.abs().sum() > 0
    assert classifier(torch.rand(2, 3, 100, 100))["age"].shape == (2, 2)
    torch.testing.assert_close(classifier.probabilities(images)["skin_tone"].sum(1), torch.ones(3))


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no classifier at"):
        load_classifier(tmp_path / "nothing")
    models.resnet(["gender:female", "old"], 48).save_pretrained(tmp_path / "label")
    with pytest.raises(UserError, match="label 'old'"):
        load_classifier(tmp_path / "label")
    models.resnet(models.attribute_labels(), 48).save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="could not be loaded"):
        load_classifier(tmp_path / "cut")


def test_guide_and_judge_are_different_models():
    guide, judge = (load_classifier(MINI / name) for name in ("guide", "judge"))
    assert guide.classes == judge.classes
    assert type(guide.model) is not type(judge.model)
