"""Sub-networks by running again only what lies downstream of the units that changed.

The weights of a copy of the model are those of the current coalition, so that every step that is
run gives what a full pass would give, bit for bit; a unit that dies where its output is kept is
written there as the constant that it becomes, and its layer is not run again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from modeledit.subnets.full import FullNetworks
from modeledit.subnets.kept import Kept, Saved, restore
from modeledit.subnets.masks import Masks
from modeledit.subnets.places import Move, Place, find, moved
from modeledit.subnets.players import Players
from modeledit.subnets.program import Program, run
from modeledit.subnets.rows import leave_out
from modeledit.subnets.switches import Switch
from modeledit.subnets.thin import Death, ThinDeaths, ThinPath
from modeledit.subnets.tracing import trace
from modeledit.types import Unit

_AT_ONCE = 128  # images, from where on more at a time spare next to nothing


class GraphNetworks:
    """The same as `full`, which must not be used meanwhile, by a graph with kept values.

    limit: bytes of kept values over all batches; what does not fit is computed again when needed.
    A dead unit's convolution still runs before the norm that pins it: should it overflow, it gives
    NaN where written weights give the pin.
    thin: see ThinDeaths. stacked: see Masks; None: on a GPU.
    """

    def __init__(self, full: FullNetworks, limit: int, thin: bool, stacked: bool | None) -> None:
        self.runtime, self.labels, self.indices = full.runtime, full.labels, full.indices
        self._images, self._limit = full.images, limit
        model = copy.deepcopy(full.model)
        example = self._images[0][:2]
        traced = trace(model, example)
        self.fit = traced is not None
        if traced is None:
            return
        graph, self.blocks = traced
        self.path = "blocks" if self.blocks else "graph"
        old = full.players
        self.players = Players(model, old.anatomy, old.means, old.units, old.left_out, old.places)
        self._program = Program(model, graph)
        self._switches = [Switch(self.players, name) for name in self.players.places]
        self._alive: Tensor | None = None
        self._logits = torch.empty(0)
        self._use_thin = thin
        self._deaths: ThinDeaths | None = None
        self._stack = self._images[0].device.type == "cuda" if stacked is None else stacked
        self._masks: Masks | None = None
        self.fit = self._same(full)
        if self.fit:
            self._program.measure(example)
            self._places = self._found(example)
            leave_out(self._program, self._switches, self._places)
            self._kept = Kept(self._program, self._places, self._images, self.runtime, limit)

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.players.units

    @property
    def left_out(self) -> Mapping[str, tuple[int, ...]]:
        return self.players.left_out

    # --- building ---------------------------------------------------------------------------------

    def _same(self, full: FullNetworks) -> bool:
        """True if the graph gives the bits of the model on real images, intact and half dead, and
        no step overwrites what another one made."""
        intact = torch.ones(len(self.units), dtype=torch.bool)
        half = intact.clone()
        half[::2] = False
        try:
            if self._program.overwrites(self._images[0][:2].clone()):
                return False
            whole = self._run_all(self._images[0])
            same = torch.equal(whole, full.of_batch(intact, self._images[0]))
            last = self._run_all(self._images[-1])
            same &= torch.equal(last, full.of_batch(intact, self._images[-1]))
            with self._written(self._moves(intact, half)):
                dead = self._run_all(self._images[0])
            return same and torch.equal(dead, full.of_batch(half, self._images[0]))
        except Exception:  # a graph that cannot run is no graph
            return False

    def _run_all(self, images: Tensor) -> Tensor:
        program = self._program
        self.runtime.meter.forward(len(images))
        with torch.inference_mode():
            plan = program.plan(program.whole)
            logits: Tensor = run(plan, [images, *[None] * program.last])[program.last]
        return logits.float().cpu()

    def _found(self, example: Tensor) -> list[Place]:
        """Where each layer's units show, and their constants, read off a network of dead units."""
        intact = torch.ones(len(self.units), dtype=torch.bool)
        with torch.inference_mode(), self._written(self._moves(intact, ~intact)):
            values = list(self._program.values(example))
        return [find(self._program, switch, values) for switch in self._switches]

    # --- running ----------------------------------------------------------------------------------

    def logits(self, alive: Tensor, *, keep: bool = True) -> Tensor:
        """(N, classes) float32 on the CPU; keep: the kept values move to this coalition."""
        self.players.check(alive)
        if self._alive is None:
            self._fill(alive if keep else torch.ones_like(alive))
        moves = [] if self._alive is None else self._moves(self._alive, alive)
        if not moves:
            return self._logits.clone()
        if keep:
            self._alive = None  # until it is all done
            self._logits = self._moved(moves)
            self._alive = alive.clone()
            return self._logits.clone()
        death = self._thin(moves)
        if death is not None:
            return self._stacked(death[0], [death[1:]])[0]
        with self._written(moves):
            return self._around(moves)

    def many(self, alive: Tensor, *, keep: bool = True) -> Tensor:
        """(K, N, classes) of K coalitions (K, n), in an order in which neighbours differ late, or
        without `keep` each around the same; what can be done at once is."""
        found: dict[int, Tensor] = {} if keep else self._deaths_at_once(alive)
        others = [row for row in range(len(alive)) if row not in found]
        if self._stack and others and (masked := self._by_masks(alive[others])) is not None:
            found |= dict(zip(others, masked, strict=True))
            others = []
        for row in sorted(others, key=lambda row: alive[row].numpy().tobytes()):
            found[row] = self.logits(alive[row], keep=keep)
        return torch.stack([found[row] for row in range(len(alive))])

    def _deaths_at_once(self, alive: Tensor) -> dict[int, Tensor]:
        """{row of alive: (N, classes)} of those that are single deaths with a thin path."""
        base = torch.ones(len(self.units), dtype=torch.bool) if self._alive is None else self._alive
        self.logits(base)
        groups: dict[ThinPath, list[tuple[int, tuple[int, float]]]] = {}
        for row, coalition in enumerate(alive):
            self.players.check(coalition)
            if (death := self._thin(self._moves(base, coalition))) is not None:
                groups.setdefault(death[0], []).append((row, death[1:]))
        found: dict[int, Tensor] = {}
        for path, members in groups.items():
            logits = self._stacked(path, [death for _, death in members])
            found |= {row: part for (row, _), part in zip(members, logits, strict=True)}
        return found

    def _by_masks(self, alive: Tensor) -> Tensor | None:
        """(K, N, classes); None if masks do not give what written weights give."""
        for coalition in alive:
            self.players.check(coalition)
        with torch.inference_mode(), self._as_intact():
            if self._masks is None:
                self._masks = Masks(self._program, self._places, self._images[0].device)
                example, half = self._images[0][:2], torch.arange(len(self.units)) % 2 > 0
                with self._written(self._moves(torch.ones_like(half), half)):
                    wanted = self._run_all(example)
                self._masks.judge(example, half, wanted)
            if not self._masks.fit:
                return None
            self.runtime.meter.forward(len(alive) * len(self.labels))
            return self._masks.many(self._images, alive, self._kept.sizes(), self._limit)

    @contextmanager
    def _as_intact(self) -> Iterator[None]:
        """The weights of the intact network inside."""
        intact = torch.ones(len(self.units), dtype=torch.bool)
        now = intact if self._alive is None else self._alive
        with self._written(self._moves(now, intact)):
            yield

    def _fill(self, alive: Tensor) -> None:
        """Everything anew, whatever went before."""
        for switch in self._switches:
            count = torch.arange(len(switch.rows))
            switch.write(count, torch.ones(len(count), dtype=torch.bool))
        with torch.inference_mode():
            if not self._kept.values:
                self._kept.choose(self._use_thin)
            plan = self._program.plan(self._program.whole)
            self._kept.forget()
            anew = not bool(alive.all())
            if self._kept.origins or not anew:
                self._logits = self._kept.run(plan, keep=True)
                self._kept.remember()
            if anew:
                self._write(self._moves(torch.ones_like(alive), alive))
                self._logits = self._kept.run(plan, keep=True)
        self._alive = alive.clone()

    def _moves(self, old: Tensor, new: Tensor) -> list[Move]:
        return moved([len(places) for places in self.players.places.values()], old, new)

    def _write(self, moves: Sequence[Move], back: bool = False) -> None:
        with torch.inference_mode():
            for move in moves:
                self._switches[move.layer].write(move.which, ~move.alive if back else move.alive)

    @contextmanager
    def _written(self, moves: Sequence[Move]) -> Iterator[None]:
        try:
            self._write(moves)
            yield
        finally:
            self._write(moves, back=True)

    def _dirty(self, moves: Sequence[Move]) -> tuple[int, list[tuple[int, Move]]]:
        """The steps to run, and (step, move) of those where units are written: as constants, or
        where they come alive as they are in the intact network."""
        program, dirty, fixed = self._program, 0, []
        for move in moves:
            place = self._places[move.layer]
            dies = place.fixed is not None and not bool(move.alive.any())
            for step in place.steps:
                dirty |= program.below[step]
                if (dies or self._kept.origins >> step & 1) and program.kept >> step & 1:
                    fixed.append((step, move))
                else:
                    dirty |= 1 << step
        return dirty, [(step, move) for step, move in fixed if not dirty >> step & 1]

    def _moved(self, moves: Sequence[Move]) -> Tensor:
        self._write(moves)
        dirty, fixed = self._dirty(moves)
        with torch.inference_mode():
            for step, move in fixed:
                self._kept.overwrite(step, move)
            return self._kept.run(self._program.plan(dirty), keep=True)

    def _around(self, moves: Sequence[Move]) -> Tensor:
        dirty, fixed = self._dirty(moves)
        saved: list[Saved] = []
        with torch.inference_mode():
            try:
                for step, move in fixed:
                    saved += self._kept.overwrite(step, move)
                return self._kept.run(self._program.plan(dirty), keep=False)
            finally:
                restore(saved)

    def _thin(self, moves: Sequence[Move]) -> Death | None:
        """How to get the logits of a single death by way of its one channel, if there is a way."""
        if not self._use_thin:
            return None
        if self._deaths is None:
            with torch.inference_mode(), self._as_intact():
                example = self._images[0][:2]
                self._deaths = ThinDeaths(self._program, self._places, example)
        return self._deaths.of(moves)

    def _stacked(self, path: ThinPath, deaths: Sequence[tuple[int, float]]) -> Tensor:
        """(K, N, classes) of K deaths along one path, as many at once as make a usual batch."""
        room = _AT_ONCE // len(self._images[0]) if path.stacks else 1
        made = []
        with torch.inference_mode():
            for first in range(0, len(deaths), max(room, 1)):
                some = deaths[first : first + max(room, 1)]
                made.append(torch.cat([path.run(values, some) for values in self._kept.values], 1))
        self.runtime.meter.forward(path.rest.share * len(deaths) * len(self.labels))
        return torch.cat(made).cpu()
