"""Decode steps replayed from a capture: the answers of the eager ones, whatever pads and whoever joins."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from thinker_kit import Answer, Kit, add, collect, idle, kit_of, run_all

from cadence.errors import CadenceError, StageFailed
from cadence.models.device_graph import CudaGraphs, GraphBackend
from cadence.thinker import decode_graph
from cadence.thinker.core import ThinkerCore
from cadence.thinker.kv_cache import Span, StepAttention
from cadence.types import StepOutput
from graph_kit import FakeGraphs


@pytest.fixture
def kit(tiny_checkpoint: Path, device: str) -> Kit:
    return kit_of(tiny_checkpoint, device)


@pytest.fixture
def alone(kit: Kit) -> dict[str, Answer]:
    return kit.alone()


def backend_of(kit: Kit) -> GraphBackend:
    return CudaGraphs(kit.model.device) if kit.model.device.type == "cuda" else FakeGraphs()


def counts(core: ThinkerCore) -> tuple[int, int]:
    assert core.runner.decode_graphs is not None
    graphs = core.runner.decode_graphs.graphs
    assert not graphs.failed
    return graphs.num_captures, graphs.num_replays


def test_replayed_equals_eager_in_any_company(kit: Kit, alone: dict[str, Answer]) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    core = kit.core(backend_of(kit), max_num_seqs=6)
    for _ in range(2):
        todo = rng.sample(kit.variety(), 6)
        names = {request.request_id for request in todo}
        answers: dict[str, StepOutput | CadenceError] = {}
        while todo or core.has_work:
            if todo and rng.random() < 0.4:
                add(core, todo.pop())
            collect(core, answers)
        for name in names:
            item = answers[name]
            assert isinstance(item, StepOutput) and (item.ids, item.finish_reason) == alone[name]
    captures, replays = counts(core)
    assert 1 < captures < replays / 4
    assert idle(core)


def test_replayed_equals_eager_when_sequences_are_preempted(kit: Kit) -> None:
    requests = [
        kit.request("a", num_ids=10, temperature=0, max_tokens=50),
        kit.request("b", num_ids=12, seed=1, max_tokens=50),
        kit.request("c", num_ids=8, seed=2, max_tokens=50, top_p=0.9, repetition_penalty=1.2),
    ]
    tight = kit.core(backend_of(kit), kv_cache_tokens=8 * 16)
    assert run_all(tight, requests) == run_all(kit.core(), requests)
    assert tight.stats()["num_preemptions"] > 0 and counts(tight)[1] > 20


def test_hidden_states_equal_those_of_the_eager_step(kit: Kit) -> None:
    """Three sequences, one of them two tokens at once: 4 rows; a past of 130 takes 16 blocks."""
    cores = [kit.core(), kit.core(backend_of(kit))]
    spans = [Span(0, 129, 1), Span(1, 3, 2), Span(2, 0, 1)]
    found = []
    for core in cores:
        memory = core.runner.memory
        generator = torch.Generator().manual_seed(0)
        for stored in (memory.keys, memory.values):
            stored.copy_(torch.randn(stored.shape, generator=generator))
        for row, blocks in enumerate(([*range(3, 12)], [40], [20])):
            memory.set_blocks(row, blocks)
    with torch.inference_mode():
        ids = torch.tensor([5, 6, 7, 8], device=kit.model.device)
        attention = StepAttention(cores[0].runner.memory, ([spans[2]], [spans[0]], [spans[1]]))
        positions = torch.tensor([0, 129, 3, 4], device=kit.model.device)
        eager = kit.model.decode(kit.model.embed_ids(ids[[3, 0, 1, 2]]), positions, attention)[[1, 2, 3, 0]]
        graphs = cores[1].runner.decode_graphs
        assert graphs is not None
        for _ in range(2):
            replayed = graphs.run(ids.tolist(), spans)
            assert replayed is not None
            found.append(replayed.clone())
    torch.testing.assert_close(found[0], eager, atol=1e-5, rtol=1e-4)
    assert torch.equal(found[0], found[1])
    assert counts(cores[1]) == (1, 2)


def test_rows_that_pad_touch_no_block_of_a_sequence(kit: Kit) -> None:
    core = kit.core(backend_of(kit), kv_cache_tokens=64 * 16)
    memory = core.runner.memory
    for row in range(3):
        memory.set_blocks(row, [row])
    graphs = core.runner.decode_graphs
    assert graphs is not None
    with torch.inference_mode():
        graphs.run([1, 2, 3], [Span(row, 5, 1) for row in range(3)])  # and one row that pads
    written = memory.keys.flatten(3).ne(0).any(-1).any(0)  # [blocks, block_size]
    places = [(int(b), int(p)) for b, p in written.nonzero()]
    assert places == [(0, 5), (1, 5), (2, 5), (memory.spare_block, 0)]


def test_a_row_that_is_not_finite_spoils_no_other(kit: Kit) -> None:
    core = kit.core(backend_of(kit))
    memory = core.runner.memory
    graphs = core.runner.decode_graphs
    assert graphs is not None
    for row in range(3):
        memory.set_blocks(row, [row])
    spans = [Span(row, 5, 1) for row in range(3)]
    with torch.inference_mode():
        healthy = graphs.run([1, 2, 3], spans)
        assert healthy is not None
        before = healthy.clone()
        memory.values[:, 0] = float("nan")
        after = graphs.run([1, 2, 3], spans)
    assert after is not None
    assert bool(after[0].isnan().all())
    assert torch.equal(after[1:], before[1:])


def test_chunks_of_prompts_and_steps_too_large_are_declined(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = kit.core(backend_of(kit))
    graphs = core.runner.decode_graphs
    assert graphs is not None
    with torch.inference_mode():
        assert graphs.run([1, 2, 3], [Span(0, 0, 3)]) is None
        monkeypatch.setattr(decode_graph, "MAX_TOKENS", 2)
        assert graphs.run([1, 2, 3], [Span(row, 0, 1) for row in range(3)]) is None
        monkeypatch.setattr(decode_graph, "MAX_PLACES", 127)
        assert graphs.run([1], [Span(0, 0, 1)]) is None
    assert counts(core) == (0, 0)


def test_when_a_capture_fails_the_step_and_all_later_ones_run_eagerly(
    kit: Kit, alone: dict[str, Answer]
) -> None:
    backend = FakeGraphs(fails=True)
    core = kit.core(backend)
    assert run_all(core, kit.variety()) == alone
    assert (backend.num_captures, backend.num_replays) == (1, 0)


def test_an_error_of_a_replayed_step_ends_its_sequences_alone(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = kit.core(backend_of(kit))
    request = kit.request("a", temperature=0)
    whole = run_all(core, [request])["a"]
    add(core, request)
    core.step()
    graphs = core.runner.decode_graphs
    assert graphs is not None
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "run", lambda ids, spans: 1 / 0)
        [(_, error)] = core.step()
    assert isinstance(error, StageFailed)
    assert run_all(core, [request])["a"] == whole
