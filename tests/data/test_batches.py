from typing import get_args

import pytest
import torch
from torch import Tensor

from lit_unlearn.data import Batches, EvaluationBatches, Order, OrderSampler
from lit_unlearn.errors import UsageError

FORGET = torch.arange(0, 30, 3)
RETAIN = torch.tensor([index for index in range(30) if index % 3])
ORDERS = get_args(Order)


def steps(
    order: Order, epoch: int = 0, forget: Tensor = FORGET, retain: Tensor = RETAIN, **more: int
) -> list[dict[str, Tensor]]:
    sampler = OrderSampler(order, forget, retain, **{"batch_size": 4, **more})
    sampler.set_epoch(epoch)
    made = list(sampler)
    assert len(made) == len(sampler)
    return made


def seen(made: list[dict[str, Tensor]], name: str) -> list[int]:
    return [index for step in made if name in step for index in step[name].tolist()]


@pytest.mark.parametrize(
    ("order", "wanted"),
    [("retain", RETAIN), ("forget", FORGET), ("full", torch.arange(30)), ("mixed", torch.arange(30))],
)
def test_one_set_orders_pass_once_over_their_set_in_a_new_order_each_epoch(order: Order, wanted: Tensor) -> None:
    made = steps(order)
    assert sorted(seen(made, order)) == wanted.tolist()
    assert all(step.keys() == {order} for step in made)
    assert seen(made, order) != wanted.tolist()
    assert seen(made, order) != seen(steps(order, epoch=1), order)


def test_forget_then_retain_is_all_forget_batches_then_all_retain_batches() -> None:
    made = steps("forget_then_retain", forget_batch_size=5)
    assert [next(iter(step)) for step in made] == ["forget"] * 2 + ["retain"] * 5
    assert all(len(step) == 1 for step in made)
    assert sorted(seen(made, "forget")) == FORGET.tolist()
    assert sorted(seen(made, "retain")) == RETAIN.tolist()
    assert len(made[0]["forget"]) == 5


def test_paired_passes_once_over_retain_and_reshuffles_forget_each_time_it_runs_out() -> None:
    made = steps("paired", forget=FORGET[:6], forget_batch_size=3)
    assert len(made) == 5
    assert all(step.keys() == {"forget", "retain"} for step in made)
    assert sorted(seen(made, "retain")) == RETAIN.tolist()
    indices = seen(made, "forget")
    passes = [indices[:6], indices[6:12]]
    assert sorted(passes[0]) == sorted(passes[1]) == FORGET[:6].tolist()
    assert passes[0] != passes[1]


def test_paired_goes_on_with_forget_where_the_last_epoch_stopped() -> None:
    forget, retain = torch.arange(20), torch.arange(20, 28)
    made = [step for epoch in range(5) for step in steps("paired", epoch=epoch, forget=forget, retain=retain)]
    assert len(made) == 10
    assert sorted(seen(made[:5], "forget")) == sorted(seen(made[5:], "forget")) == forget.tolist()


def test_where_only_some_steps_have_a_forget_batch_the_passes_over_forget_are_complete_still() -> None:
    forget, retain, every = torch.arange(20), torch.arange(20, 48), 3
    epochs = [steps("paired", n, forget, retain, forget_every=every, forget_batch_size=5) for n in range(4)]
    made = [step for epoch in epochs for step in epoch]
    assert [number for number, step in enumerate(made) if "forget" in step] == list(range(0, 28, every))
    assert all(sorted(seen(epoch, "retain")) == retain.tolist() for epoch in epochs)
    climbs = seen(made, "forget")
    assert sorted(climbs[:20]) == sorted(climbs[20:40]) == forget.tolist()
    assert climbs[:20] != climbs[20:40]


def test_a_forget_set_smaller_than_its_batch_trains_every_step() -> None:
    made = steps("paired", forget=FORGET[:3], batch_size=5, forget_batch_size=256)
    assert len(made) == 4
    assert all(sorted(step["forget"].tolist()) == FORGET[:3].tolist() for step in made)
    assert len({tuple(step["forget"].tolist()) for step in made}) > 1
    assert len(steps("forget", forget=FORGET[:3], batch_size=256)) == 1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_no_step_has_a_single_sample(order: Order, world: int) -> None:
    for count in range(1, 14):
        for rank in range(world):
            made = steps(order, forget=torch.arange(count), retain=torch.arange(20, 20 + count), rank=rank, world=world)
            assert all(len(indices) > 1 for step in made for indices in step.values())


def test_a_tail_of_one_joins_the_batch_before_and_a_lone_sample_is_shown_twice() -> None:
    assert [len(step["forget"]) for step in steps("forget", forget=torch.arange(9))] == [4, 5]
    assert [step["forget"].tolist() for step in steps("forget", forget=torch.tensor([7]))] == [[7, 7]]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_every_sample_and_make_the_same_number_of_steps(order: Order, world: int) -> None:
    ranks = [steps(order, rank=rank, world=world) for rank in range(world)]
    assert len({len(made) for made in ranks}) == 1
    names = {name for step in ranks[0] for name in step}
    for name in names - ({"forget"} if order == "paired" else set()):
        indices = [index for made in ranks for index in seen(made, name)]
        wanted = {"forget": FORGET, "retain": RETAIN}.get(name, torch.arange(30)).tolist()
        assert sorted(set(indices)) == wanted
        assert len(indices) - len(wanted) < world
    for same_step in zip(*ranks, strict=True):
        assert len({tuple(step) for step in same_step}) == 1


def test_ranks_are_padded_by_wrapping_even_when_there_are_more_ranks_than_samples() -> None:
    made = [steps("forget", forget=torch.tensor([3, 5]), rank=rank, world=5) for rank in range(5)]
    assert [len(of_rank) for of_rank in made] == [1] * 5
    assert {index for of_rank in made for index in seen(of_rank, "forget")} == {3, 5}


def test_the_order_is_a_pure_function_of_seed_and_epoch() -> None:
    assert seen(steps("full", epoch=3, seed=1), "full") == seen(steps("full", epoch=3, seed=1), "full")
    orders = {tuple(seen(steps("full", epoch=epoch, seed=seed), "full")) for epoch in range(4) for seed in range(4)}
    assert len(orders) == 16
    state = torch.get_rng_state()
    steps("paired")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("order", sorted(set(ORDERS) - {"retain", "full"}))
def test_orders_that_need_samples_to_forget_say_so(order: Order) -> None:
    with pytest.raises(UsageError, match=f"{order}.* needs samples to forget"):
        OrderSampler(order, torch.empty(0, dtype=torch.int64), RETAIN, 4)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown batch order 'pared'; did you mean 'paired'"):
        OrderSampler("pared", FORGET, RETAIN, 4)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch_size is 1"):
        OrderSampler("retain", FORGET, RETAIN, 1)
    with pytest.raises(UsageError, match="forget_batch_size is 0"):
        OrderSampler("paired", FORGET, RETAIN, 4, 0)
    with pytest.raises(UsageError, match="forget_every is 0"):
        OrderSampler("paired", FORGET, RETAIN, 4, forget_every=0)
    with pytest.raises(UsageError, match="needs samples to retain"):
        OrderSampler("retain", FORGET, RETAIN[:0], 4)
    with pytest.raises(UsageError, match="eval_batch_size is 0"):
        EvaluationBatches(torch.zeros(3, 1, 1, 1), torch.zeros(3), torch.arange(3), 0)


def images(count: int) -> tuple[Tensor, Tensor]:
    """Images whose pixels are their index, and labels that are ten times it."""
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous(), torch.arange(
        count
    ) * 10


def test_batches_hold_the_images_and_labels_of_their_indices() -> None:
    sampler = OrderSampler("paired", FORGET, RETAIN, 4)
    batches = Batches(*images(30), sampler)
    made = list(batches)
    assert len(made) == len(batches) == 5
    for batch, step in zip(made, sampler, strict=True):
        for name, (pixels, labels) in batch.items():
            assert pixels.dtype == torch.uint8
            assert torch.equal(pixels[:, 2, 1, 1].long(), step[name])
            assert torch.equal(labels, step[name] * 10)


def test_mixed_batches_say_which_samples_are_to_be_forgotten() -> None:
    for batch in Batches(*images(30), OrderSampler("mixed", FORGET, RETAIN, 4)):
        _, labels, is_forget = batch["mixed"]
        assert is_forget.dtype == torch.bool
        assert torch.equal(is_forget, torch.isin(labels // 10, FORGET))


def test_lightning_sets_the_epoch_through_the_sampler_attribute() -> None:
    batches = Batches(*images(30), OrderSampler("full", FORGET, RETAIN, 30))
    first = next(iter(batches))["full"][1]
    batches.sampler.set_epoch(1)
    assert not torch.equal(first, next(iter(batches))["full"][1])


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 2, 5, 12, 29, 30])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_evaluation_sees_each_sample_once_and_ranks_agree_on_the_number_of_batches(
    world: int, count: int, batch_size: int
) -> None:
    indices = torch.randperm(30, generator=torch.Generator().manual_seed(count))[:count]
    ranks = [EvaluationBatches(*images(30), indices, batch_size, rank, world) for rank in range(world)]
    made = [list(loader) for loader in ranks]
    assert {len(of_rank) for of_rank in made} == {len(ranks[0])}
    labels = torch.cat([labels for of_rank in made for _, labels in of_rank])
    assert sorted(labels.tolist()) == sorted((indices * 10).tolist())
    for loader, of_rank in zip(ranks, made, strict=True):
        sizes = [len(labels) for _, labels in of_rank]
        assert max(sizes) <= batch_size
        assert min(sizes) > 0 or len(loader.indices) < len(loader)
        assert all(torch.equal(pixels[:, 0, 0, 0].long() * 10, labels) for pixels, labels in of_rank)


def test_evaluation_of_rank_r_takes_every_world_th_sample() -> None:
    loader = EvaluationBatches(*images(30), torch.arange(9), 2, rank=1, world=3)
    assert torch.cat([labels for _, labels in loader]).tolist() == [10, 40, 70]


def test_evaluation_of_nothing_has_no_batches() -> None:
    assert list(EvaluationBatches(*images(30), torch.arange(0), 2)) == []


@pytest.mark.parametrize(("before", "now"), [(1, 2), (1, 5), (3, 2), (4, 1)])
def test_an_epoch_goes_on_with_as_many_processes_as_it_began_with(before: int, now: int) -> None:
    def batches(world: int, rank: int, epoch: int = 1) -> Batches:
        made = Batches(*images(30), OrderSampler("full", FORGET, RETAIN, 2, rank=rank, world=world))
        made.sampler.set_epoch(epoch)
        return made

    running = batches(before, 0)
    iterator = iter(running)
    steps = len(running)
    states = [running.state_dict()]
    for _ in range(steps):
        next(iterator)
        states.append(running.state_dict())
    for rank in range(now):
        says = f"was {before}, now {now}, but the checkpoint lies within an epoch: go on with {before}"
        for state in states[1:-1]:
            resumed = batches(now, rank)
            resumed.load_state_dict(state)
            with pytest.raises(UsageError, match=says):
                next(iter(resumed))
        for state, epoch in ((states[0], 1), (states[-1], 2), (states[1], 2)):
            resumed = batches(now, rank, epoch)
            resumed.load_state_dict(state)
            assert len(list(resumed)) == len(resumed)
    resumed = batches(before, 0)
    resumed.load_state_dict(states[3])
    assert len(list(resumed)) == steps - 3
