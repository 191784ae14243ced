"""How many workers fit, and what a user is told when they do not."""

import pytest

from earnest.cluster.capacity import Node, Room, Shape, room_for
from earnest.specs import Cluster, UserError

LAPTOP = [Node(cpus=2, gpus=0)]
BOX = [Node(cpus=64, gpus=8)]


def test_without_gpus_each_cpu_gets_a_worker_and_with_gpus_each_gpu() -> None:
    assert room_for(Cluster(), LAPTOP, "here") == Room(Shape(0, 1), 2, 2, 2)
    assert room_for(Cluster(), BOX, "here") == Room(Shape(1, 1), 8, 8, 8)


def test_fractions_share_a_gpu_and_never_spread_over_two() -> None:
    assert room_for(Cluster(gpus_per_worker=0.5), BOX, "here").slots == 16
    assert room_for(Cluster(gpus_per_worker=0.4), BOX, "here").slots == 16
    assert room_for(Cluster(gpus_per_worker=0.1), [Node(cpus=64, gpus=1)], "here").slots == 10


def test_several_gpus_come_from_one_node() -> None:
    assert room_for(Cluster(gpus_per_worker=2), [Node(8, 3), Node(8, 1)], "here").slots == 1


def test_a_gpu_worker_takes_fewer_cpus_where_they_would_not_go_round() -> None:
    room = room_for(Cluster(), [Node(cpus=0, gpus=0), Node(cpus=2, gpus=4)], "here")
    assert (room.shape, room.slots) == (Shape(1, 0.5), 4)


def test_asked_counts_are_limits_of_their_kind() -> None:
    room = room_for(Cluster(compressors=1, evaluators=6), BOX, "here")
    assert (room.slots, room.compressors, room.evaluators) == (8, 1, 6)


@pytest.mark.parametrize(
    ("asked", "nodes", "told"),
    [
        (
            Cluster(gpus_per_worker=1, evaluators=2),
            LAPTOP,
            (
                "asked for 2 workers x 1 GPU; the cluster at here has 0 GPUs, 2 CPUs on 1 node\n"
                "set gpus_per_worker = 0 to compute on CPUs, or give the address of a cluster with GPUs"
            ),
        ),
        (
            Cluster(gpus_per_worker=4),
            [Node(8, 2), Node(8, 2)],
            (
                "asked for 1 worker x 4 GPU; the cluster at here has 4 GPUs, 16 CPUs on 2 nodes\n"
                "no node has that many: ask for fewer gpus_per_worker or cpus_per_worker"
            ),
        ),
        (
            Cluster(evaluators=3),
            LAPTOP,
            (
                "asked for 3 workers x 1 CPU; the cluster at here has 0 GPUs, 2 CPUs on 1 node\n"
                "there is room for 2: set compressors and evaluators to at most that"
            ),
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_there(asked: Cluster, nodes: list[Node], told: str) -> None:
    with pytest.raises(UserError) as refused:
        room_for(asked, nodes, "here")
    assert str(refused.value) == told
