"""From a graph to what runs: blocks as packed kernels, the rest in PyTorch, checked against the original."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from ninefold.inference import match, planner, replay, rewrite, tune
from ninefold.inference.capture import Captured
from ninefold.inference.describe import describe
from ninefold.inference.fold import pack
from ninefold.inference.graph import attribute, is_view, operator, value, writes
from ninefold.inference.join import join
from ninefold.inference.summary import Layer
from ninefold.ops import backend
from ninefold.ops.sequence import Sequence

# A block disagrees if it is further from the original than this share of the original's range.
TOLERANCE = 1e-4
_OWN = 10  # times PyTorch's distance from float64, by chance, may ours be where every block agrees
_MOST = 1e-2  # of a range, where PyTorch's own distance shall end
_DISAGREED = "disagreed with PyTorch"

Leaves = list[Any]


class DisagreementError(Exception):
    """A captured graph that computes something else than its model."""


@dataclass(frozen=True)
class Plan:
    """A network for one image size: `run` takes the flat inputs and returns the flat outputs."""

    run: GraphModule
    captured: Captured
    layers: tuple[Layer, ...]
    note: str = ""

    @property
    def whole(self) -> Sequence | None:
        """The one call into the extension that the network is, if it is: an image in, its result out."""
        nodes = list(self.run.graph.nodes)
        if [node.op for node in nodes] != [
            "placeholder",
            "call_function",
            "call_module",
            "call_function",
            "output",
        ]:
            return None
        if nodes[1].target is not torch.ops.aten.contiguous.default or nodes[3].args != (nodes[2], 0):
            return None
        if list(nodes[4].args[0]) != [nodes[3]]:
            return None
        module = self.run.get_submodule(nodes[2].target)
        return module if isinstance(module, Sequence) else None


def make(captured: Captured, inputs: Leaves, wanted: Leaves, *, measured: bool = False) -> Plan:
    """Fuse and pack what can be, and check it once: `wanted` is what the original returns for `inputs`.

    Which stages run fused is estimated, or `measured`.

    A block that disagrees or raises is left to PyTorch and named in the layers; if the whole does and no
    block, everything is, unless it is about as near to float64 as PyTorch: then rounding alone makes the
    difference, and the note says so. If blocks do only as one call, they run one by one, and it is noted.
    Raises DisagreementError if even the captured graph computes something else, and what there was no memory
    for.
    """
    source = captured.graph
    rewrite.simplify(source.graph)
    found = match.find(source)
    left, fallen, blocks = dict(found.left), "", found.blocks
    if any(operator(node) == "as_strided" for node in source.graph.nodes):
        blocks, fallen = (), "the network reads memory by its strides (`as_strided`)"
    if blocks:
        rewrite.reshape_views(source.graph)
    source.recompile()
    images = examples(captured, inputs) / (captured.batch or 1)
    gpu = any(isinstance(leaf, Tensor) and backend.on_gpu(leaf) for leaf in inputs)
    if gpu:
        # What runs as one kernel there is measured by the operators, at each block's first call.
        choices = {block: planner.on_gpu(block) for block in blocks}
    else:
        costs = planner.costs()
        choices = {block: planner.choose(block, costs, images) for block in blocks}
        if measured:
            choices |= tune.choose(source, blocks, inputs)
    kernels = {part: pack(source, part) for choice in choices.values() for part in choice.form}
    whys = {choice.form[0]: choice.why for choice in choices.values()}
    run, linear = _build(source, kernels, joined=not gpu)
    why, note = _complaint(run, inputs, wanted), ""
    if why and not gpu:
        run, linear = _build(source, kernels)
        joined, why = why, _complaint(run, inputs, wanted)
        note = "" if why else f"neighbouring blocks run one by one: their one call {joined}"
    if why:
        bad = _failing(source, kernels, inputs)
        for block, what in bad.items():
            left.update({stage.convolution: f"its kernel {what}" for stage in block.stages})
        kernels = {block: kernel for block, kernel in kernels.items() if block not in bad}
        run, linear = _build(source, kernels)
        if why := _complaint(run, inputs, wanted):
            plain, plainly = _build(source, {})
            run, linear = _build(source, kernels, joined=not gpu)
            note = _as_near_the_truth(run, plain, inputs, wanted) if kernels else ""
            if not note:
                kernels, fallen, run, linear = {}, f"the network as a whole {why}", plain, plainly
                if _complaint(run, inputs, wanted):
                    raise DisagreementError("its captured graph does not compute what the model computes")
    scale = examples(captured, inputs), captured.batch or examples(captured, inputs)
    layers = describe(source, {block: whys.get(block, "") for block in kernels}, linear, left, fallen, scale)
    return Plan(run, captured, layers, note)


def examples(captured: Captured, inputs: Leaves) -> int:
    """How many images the example inputs hold; as many as the traced graph where none may vary."""
    found = (int(leaf.shape[0]) for leaf, on in zip(inputs, captured.batched, strict=True) if on)
    return next(found, captured.batch or 1)


def close(got: Tensor, wanted: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether a result agrees to a share of the wanted one's range, with the same NaN and infinities."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if not wanted.is_floating_point() or wanted.numel() == 0:
        return bool(torch.equal(got, wanted))
    finite = wanted.isfinite()
    if not torch.equal(got[~finite], wanted[~finite]) and not (
        torch.equal(got.isnan(), wanted.isnan()) and torch.equal(got.isposinf(), wanted.isposinf())
    ):
        return False
    ours, theirs = got[finite].double(), wanted[finite].double()
    if ours.numel() == 0:
        return True
    extent = _extent(theirs)
    # Dtypes of few digits differ by some of the last: a block rounds once where PyTorch does thrice.
    tolerance = max(tolerance, 8 * torch.finfo(wanted.dtype).eps)
    return bool((ours - theirs).abs().max() <= tolerance * extent)


def _extent(wanted: Tensor) -> float:
    return max(float(wanted.max() - wanted.min()), float(wanted.abs().max()) * 1e-2, 1e-30)


def _as_near_the_truth(run: GraphModule, plain: GraphModule, inputs: Leaves, wanted: Leaves) -> str:
    """Say how far PyTorch is from float64 where a graph is about as far, and so right too; else nothing."""
    doubles = [leaf.double() if _is_float32(leaf) else leaf for leaf in replay.copied(inputs)]
    try:
        with torch.no_grad():
            truth = list(copy.deepcopy(plain).double()(*doubles))
            got = list(run(*replay.copied(inputs)))
    except Exception:
        return ""
    furthest = 0.0
    for right, ours, theirs in zip(truth, got, wanted, strict=True):
        if not _is_float32(theirs):
            if not close(ours, theirs):
                return ""
            continue
        away = float((theirs.double() - right).abs().max()) / _extent(right)
        # Where rounding moves more than that, nothing tells right from wrong; NaN is no agreement either.
        if not (away <= _MOST and close(ours, right.float(), max(TOLERANCE, _OWN * away))):
            return ""
        furthest = max(furthest, away)
    return (
        f"rounding decides: PyTorch is {furthest:.0e} of the range from float64, this at most {_OWN} times it"
    )


def _is_float32(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype is torch.float32 and leaf.numel() > 0


def _build(
    source: GraphModule, kernels: dict[match.Block, nn.Module], *, joined: bool = False
) -> tuple[GraphModule, frozenset[str]]:
    graph, root, linear = assemble(source, kernels, joined=joined)
    return GraphModule(root, graph), linear


def assemble(
    source: GraphModule, kernels: dict[match.Block, nn.Module], *, joined: bool = False
) -> tuple[Graph, dict[str, Any], frozenset[str]]:
    """Put the kernels into a copy of the graph; `joined` makes stretches of them single calls.

    Returns the graph, what its names stand for (the same names for the same source and blocks), and the names
    of the linear layers' weights that run as kernels.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    graph.output(graph.graph_copy(source.graph, copies))
    root: dict[str, Any] = {}
    for index, (block, kernel) in enumerate(kernels.items()):
        name = f"ninefold_{index}"
        root[name] = kernel
        tail = copies[block.tail]
        with graph.inserting_before(tail):
            call = graph.call_module(name, tuple(copies[node] for node in block.operands))
        call.meta["val"] = tail.meta["val"]
        tail.replace_all_uses_with(call)
        for node in reversed(block.nodes):
            graph.erase_node(copies[node])
        copies[block.tail] = call
    if kernels:
        _channels_last_inputs(graph)
    linear = join(graph, root, source) if joined else frozenset()
    rewrite.restore_in_place(graph)
    for node in reversed(graph.nodes):
        looks = node.op == "get_attr" or operator(node) == "sym_size" or (is_view(node) and not writes(node))
        if not node.users and looks:
            graph.erase_node(node)
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module") and node.target not in root:
            kept = attribute(source, node.target)
            root[node.target] = kept.detach() if isinstance(kept, Tensor) else kept
    return graph, root, linear


def _channels_last_inputs(graph: Graph) -> None:
    written = {node.args[0] for node in graph.nodes if writes(node)}
    for node in [node for node in graph.nodes if node.op == "placeholder"]:
        traced = value(node)
        if traced is None or traced.dim() != 4 or not traced.is_floating_point() or node in written:
            continue
        with graph.inserting_after(node):
            image = graph.call_function(
                torch.ops.aten.contiguous.default, (node,), {"memory_format": torch.channels_last}
            )
        image.meta["val"] = traced
        rewrite.replace_elsewhere(node, image)


def _complaint(built: GraphModule, inputs: Leaves, wanted: Leaves) -> str:
    """What a graph does other than give what is wanted: it disagrees, or raises; "" where it agrees."""
    try:
        with torch.no_grad():
            got = list(built(*replay.copied(inputs)))
    except Exception as error:
        return _raised(error)
    agrees = len(got) == len(wanted) and all(
        close(ours, theirs) if isinstance(theirs, Tensor) else bool(ours == theirs)
        for ours, theirs in zip(got, wanted, strict=True)
    )
    return "" if agrees else _DISAGREED


def _failing(
    source: GraphModule, kernels: dict[match.Block, nn.Module], inputs: Leaves
) -> dict[match.Block, str]:
    found = {}

    def visit(block: match.Block, operands: list[Tensor], wanted: Tensor) -> None:
        try:
            what = "" if close(kernels[block](*operands), wanted) else _DISAGREED
        except Exception as error:
            what = _raised(error)
        if what:
            found[block] = what

    replay.blocks(source, kernels, inputs, visit)
    return found


def _raised(error: Exception) -> str:
    # Another call may have the memory: no reason to leave this network to PyTorch from now on.
    if out_of_memory(error):
        raise error
    return f"raised {first_line(error)}"


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was what a call wanted for: PyTorch's processor says so in words alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def first_line(error: Exception) -> str:
    """The name of an error and the first line of its words."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
