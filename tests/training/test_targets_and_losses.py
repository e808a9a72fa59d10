"""Targets against brute force; losses against their formulas."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from fairnb.errors import UserError
from fairnb.measure.targets import rank_targets, targets, transport_targets
from fairnb.training.losses import (
    classification_loss,
    damped_inside,
    dynamic_weight,
    face_loss,
    latent_loss,
    must_change,
    nearest_faces,
    semantics_loss,
    shared_box,
)
from fairnb.vision.perception import NO_FACE


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def distance(probs, index):
    return (probs - torch.eye(probs.shape[1], dtype=probs.dtype)[index]).norm(dim=1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_rank_rule_gives_the_share_to_the_highest(share):
    probs = torch.rand(20, generator=seeded())
    target, confidence = rank_targets(probs, share)
    assert target.sum() == round(share * 20)
    if 0 < share < 1:
        assert probs[target == 1].min() > probs[target == 0].max()
    assert ((confidence >= 0) & (confidence <= 1)).all()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_rank_confidence_is_the_binomial_probability(share):
    number = 12
    probs = torch.linspace(1, 0, number)  # rank i is position i
    target, confidence = rank_targets(probs, share)
    pmf = [math.comb(number, c) * share**c * (1 - share) ** (number - c) for c in range(number + 1)]
    for rank in range(number):
        same = sum(p for c, p in enumerate(pmf) if (rank < c) == bool(target[rank]))
        assert confidence[rank].item() == pytest.approx(same, abs=1e-6)
    generator = seeded()
    counts = (torch.rand(20000, number, generator=generator) < share).sum(1)
    drawn = torch.arange(number)[None] < counts[:, None]
    assert torch.allclose((drawn == target.bool()).float().mean(0), confidence, atol=0.015)


def test_rank_confidence_at_an_even_share_is_symmetric_and_least_in_the_middle():
    _, confidence = rank_targets(torch.linspace(1, 0, 24), 0.5)
    assert torch.allclose(confidence, confidence.flip(0), atol=1e-6)
    assert confidence.argmin() in (11, 12) and confidence[0] > 0.999


def test_transport_finds_the_cheapest_assignment():
    probs = torch.rand(5, 3, generator=seeded(), dtype=torch.float64).softmax(1)
    # draws = 1: the drawn counts are known from the same generator
    counts = torch.multinomial(torch.tensor([0.4, 0.4, 0.2]).double(), 5, True, generator=seeded(7)).bincount(
        minlength=3
    )
    target, confidence = transport_targets(probs, [0.4, 0.4, 0.2], draws=1, generator=seeded(7))
    assert torch.equal(target.bincount(minlength=3), counts) and (confidence == 1).all()
    every = (torch.tensor(c) for c in itertools.product(range(3), repeat=5))
    cheapest = min(distance(probs, c).sum() for c in every if torch.equal(c.bincount(minlength=3), counts))
    assert distance(probs, target).sum() == pytest.approx(cheapest.item())


def test_joint_transport_finds_the_cheapest_assignment():
    probs = {name: torch.rand(4, k, generator=seeded(k)).double().softmax(1) for name, k in (("gender", 2), ("age", 2))}
    shares = [[0.25, 0.25], [0.4, 0.1]]
    cells = torch.multinomial(torch.tensor(shares).double().flatten(), 4, True, generator=seeded(3))
    target, _ = transport_targets(probs, shares, draws=1, generator=seeded(3))

    def cost(gender, age):
        return (distance(probs["gender"], gender) ** 2 + distance(probs["age"], age) ** 2).sqrt().sum()

    orders = (torch.tensor(order) for order in itertools.permutations(cells.tolist()))
    cheapest = min(cost(order // 2, order % 2).item() for order in orders)
    assert cost(target["gender"], target["age"]).item() == pytest.approx(cheapest)
    assert sorted((2 * target["gender"] + target["age"]).tolist()) == sorted(cells.tolist())


def test_transport_of_two_classes_agrees_with_the_rank_rule():
    one = torch.rand(24, generator=seeded())
    probs = torch.stack([1 - one, one], 1)
    by_rank, sure = rank_targets(one, 0.25)
    by_transport, confidence = transport_targets(probs, [0.75, 0.25], draws=4000, generator=seeded())
    assert torch.equal(by_rank[sure > 0.6], by_transport[sure > 0.6])
    assert torch.allclose(confidence[sure > 0.6], sure[sure > 0.6], atol=0.03)


def test_transport_reaches_the_shares_and_is_seeded():
    probs = torch.rand(64, 4, generator=seeded()).mul(4).softmax(1)
    shares = [0.25, 0.25, 0.25, 0.25]
    target, confidence = transport_targets(probs, shares, generator=seeded(1))
    assert (target.bincount(minlength=4) - 16).abs().max() <= 4
    again, sure = transport_targets(probs, shares, generator=seeded(1))
    assert torch.equal(again, target) and torch.equal(sure, confidence)


def test_targets_chooses_the_rule_and_leaves_faceless_images_out():
    probs = {
        "gender": torch.rand(10, 2, generator=seeded()).softmax(1),
        "skin_tone": torch.rand(10, 4, generator=seeded()).softmax(1),
    }
    found = torch.arange(10) % 5 != 0
    probs["gender"][~found] = float("nan")
    given, sure = targets(probs, {"gender": [0.5, 0.5], "skin_tone": [0.25] * 4}, found=found, generator=seeded())
    by_rank, confidence = rank_targets(probs["gender"][found, 1], 0.5)
    assert torch.equal(given["gender"][found], by_rank) and torch.equal(sure["gender"][found], confidence)
    assert (given["gender"] == NO_FACE).sum() == 2 and (sure["gender"][~found] == 0).all()
    assert given["skin_tone"].max() > 1
    none, _ = targets(probs, {"gender": [0.5, 0.5]}, found=torch.zeros(10, dtype=torch.bool))
    assert (none["gender"] == NO_FACE).all()


def test_joint_targets():
    probs = {name: torch.rand(32, 2, generator=seeded(i)).softmax(1) for i, name in enumerate(("gender", "age"))}
    given, sure = targets(probs, {("gender", "age"): [[0.375, 0.125]] * 2}, generator=seeded())
    assert set(given) == {"gender", "age"} and not torch.equal(sure["gender"], sure["age"])
    assert (given["age"].float().mean() - 0.25).abs() < 0.15


@pytest.mark.parametrize("seed", range(3))
def test_each_attribute_has_the_target_and_confidence_of_its_marginal(seed):
    sizes, shares = {"gender": 2, "skin_tone": 4, "age": 2}, np.full((2, 4, 2), 1 / 16)
    generator = seeded(seed)
    probs = {name: (3 * torch.randn(24, k, generator=generator)).softmax(1) for name, k in sizes.items()}
    target, sure = transport_targets(probs, shares, draws=20, generator=seeded(seed))
    cells = list(itertools.product(*map(range, sizes.values())))
    cost = np.zeros((24, 16))
    for (i, _), (j, cell) in itertools.product(enumerate(cost), enumerate(cells)):
        each = [
            (values[i].double() - torch.eye(values.shape[1])[k]).norm().item()
            for values, k in zip(probs.values(), cell, strict=True)
        ]
        cost[i, j] = math.hypot(*each)
    q = np.zeros((24, *sizes.values()))
    drawn = torch.multinomial(torch.full((16,), 1 / 16).double(), 20 * 24, True, generator=seeded(seed)).view(20, 24)
    for places in drawn.sort(1).values:
        for i, j in zip(*linear_sum_assignment(cost[:, places]), strict=True):
            q[(i, *cells[places[j]])] += 1 / 20
    for axis, name in enumerate(sizes, start=1):
        marginal = q.sum(tuple({1, 2, 3} - {axis}))
        np.testing.assert_allclose(sure[name], marginal.max(1), atol=1e-6)
        clear = np.sort(marginal, 1)[:, -1] - np.sort(marginal, 1)[:, -2] > 1e-6  # two classes may be drawn as often
        assert (target[name].numpy() == marginal.argmax(1))[clear].all() and clear.sum() > 15
        assert (sure[name].numpy() >= q.reshape(24, -1).max(1) - 1e-6).all()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"gender": [0.5, 0.6]}, "sum to 1.1"),
        ({"gender": [-0.5, 1.5]}, "from 0 to 1"),
        ({"gender": [0.2, 0.3, 0.5]}, "one share per class"),
        ({"height": [0.5, 0.5]}, "'height'"),
    ],
)
def test_wrong_shares_are_refused(shares, message):
    with pytest.raises(UserError, match=message):
        targets({"gender": torch.rand(4, 2)}, shares)


def test_classification_loss_uses_confident_faces_alone():
    logits = torch.randn(4, 2, generator=seeded(), requires_grad=True)
    target = torch.tensor([1, 0, NO_FACE, 1])
    confident = torch.tensor([True, True, True, False])
    loss = classification_loss(logits, target, confident, 6)
    assert loss.item() == pytest.approx(-logits.log_softmax(1)[[0, 1], [1, 0]].sum().item() / 6)
    loss.backward()
    assert (logits.grad[2:] == 0).all() and (logits.grad[:2] != 0).all()
    nothing = classification_loss(logits, target, torch.zeros(4, dtype=torch.bool), 6)
    assert nothing.item() == 0
    nothing.backward()  # a part without a confident face is no special case


def test_dynamic_weight_and_semantics_loss():
    target, original = torch.tensor([0, 1, NO_FACE, 1]), torch.tensor([0, 0, 1, NO_FACE])
    weight = dynamic_weight(target, target != NO_FACE, original, 0.2)
    assert torch.allclose(weight, torch.tensor([1.0, 0.2, 0.2, 0.2]))
    one, two = torch.eye(4), torch.eye(4)
    two[1] = torch.tensor([1.0, 0, 0, 0])
    assert semantics_loss(one, two, weight).item() == pytest.approx(0.2 / 4)
    assert semantics_loss(one, one, weight).item() == pytest.approx(0)


def test_latent_loss_and_must_change():
    target, original = torch.tensor([0, 1, NO_FACE, 1]), torch.tensor([0, 0, 1, NO_FACE])
    assert must_change(target, original).tolist() == [False, True, False, False]
    latents, reference = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    weight = torch.tensor([1.0, 0.5, 0.0, 2.0])
    by_hand = sum(weight[i] * ((latents[i] - reference[i]) ** 2).sum() / 18 for i in range(4)) / 4
    assert latent_loss(latents, reference, weight).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_image_loss_is_damped_inside_the_face_box_alone():
    images = torch.rand(3, 3, 5, 6, generator=seeded(), requires_grad=True)
    boxes = np.array([[1, 1, 4, 3], [0.5, 0.5, 2.5, 2.5], [np.nan] * 4], np.float32)
    factor = torch.tensor([0.2, 1.0, 0.2])
    damped = damped_inside(images, boxes, factor)
    assert torch.equal(damped, images)
    slope = torch.randn(3, 3, 5, 6, generator=seeded(1))
    (damped * slope).sum().backward()
    by_hand = slope.clone()
    for y in range(1, 3):
        for x in range(1, 4):
            by_hand[0, :, y, x] *= 0.2
    torch.testing.assert_close(images.grad, by_hand)


def test_faces_go_to_the_nearest_whole_face_of_their_class():
    def unit(*rows):
        return torch.nn.functional.normalize(torch.tensor(rows), dim=1)

    bank = unit([1.0, 0, 0], [0, 1.0, 0], [0, 0.9, 0.3], [0, 0, 1.0])
    classes = torch.tensor([[0, 0], [1, 0], [1, 0], [1, 1]])
    faces = unit([1.0, 0.1, 0.1], [0.5, 0.5, 0.4], [1.0, 0.2, 0.3])
    wanted = torch.tensor([[0, 0], [1, 0], [0, 1]])  # nobody in the bank is [0, 1]
    goal = nearest_faces(faces, wanted, bank, classes)
    assert torch.equal(goal[:2], bank[[0, 2]]) and goal[2].isnan().all()
    by_hand = sum(1 - float(faces[i] @ goal[i]) for i in range(2))
    assert face_loss(faces, goal).item() == pytest.approx(by_hand, rel=1e-5)
    free = faces.clone().requires_grad_()
    face_loss(free, goal).backward()
    assert (free.grad[2] == 0).all() and (free.grad[:2] != 0).any(1).all()


def test_a_joint_target_is_the_product_of_its_shares():
    probs = {"gender": torch.rand(400, 2, generator=seeded()), "age": torch.rand(400, 2, generator=seeded(1))}
    probs = {name: (4 * values).softmax(1) for name, values in probs.items()}
    given, _ = targets(probs, {("gender", "age"): np.outer([0.5, 0.5], [0.75, 0.25])}, generator=seeded(2))
    old = [(given["age"][given["gender"] == i] == 1).float().mean().item() for i in (0, 1)]
    assert old == pytest.approx([0.25, 0.25], abs=0.06)


@pytest.mark.parametrize("factors", [[0.2], [0.2, 0.6], [0.6, 0.2, 0.5]])
def test_the_weight_is_1_where_confident_targets_are_the_originals_classes_and_else_the_least_factor(factors):
    size = (200, len(factors))
    target = torch.randint(-1, 2, size, generator=seeded())
    original = torch.randint(-1, 2, size, generator=seeded(1))
    confident = (torch.rand(size, generator=seeded(2)) < 0.8) & (target != NO_FACE)
    weight, wanted = dynamic_weight(target, confident, original, factors), []
    for n in range(200):
        each = [1.0]
        for a, factor in enumerate(factors):
            goal = int(target[n, a]) if confident[n, a] else None
            if goal is None or goal != original[n, a]:
                each.append(factor)
        wanted.append(min(each))
    assert torch.allclose(weight, torch.tensor(wanted)) and 1.0 in wanted
    if len(factors) == 1:
        assert torch.equal(dynamic_weight(target[:, 0], confident[:, 0], original[:, 0], factors[0]), weight)


def test_the_shared_box_is_what_both_boxes_cover():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (2, 40, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 8, (2, 40, 2))], 2).astype(np.float32)
    boxes[0, 0], boxes[1, 1] = np.nan, np.nan

    def inside(box):
        y, x = np.mgrid[:20, :20]
        return (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])

    both = shared_box(*boxes)
    images = torch.rand(40, 3, 20, 20, requires_grad=True)
    damped_inside(images, both, torch.zeros(40)).sum().backward()
    for n in range(40):
        assert (images.grad[n, 0].numpy() == 0).tolist() == (inside(boxes[0, n]) & inside(boxes[1, n])).tolist()
