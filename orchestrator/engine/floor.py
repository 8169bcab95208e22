"""What is free on each machine, GPU by GPU, and where a request finds room. Knows no node, no queue and no time.

Machines with the same room are looked at once, however many they are: a thousand workers cost as much as their few kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.engine.executors.base import UNBOUNDED_BYTES, MachineShape
from orchestrator.workflow.spec import Resources

EPSILON = 1e-9
GPU = "GPU"

Amounts = dict[str, float]
Room = tuple[tuple[tuple[str, float], ...], tuple[float, ...]]
"""What a machine has free: amounts by name, and of each GPU; equal for machines that are as good as each other."""


@dataclass(frozen=True)
class Place:
    """What is held of one machine: amounts by resource name, and shares of GPUs by their numbers there.

    `others`: the places of further workers of the same node.
    """

    machine: str
    amounts: Mapping[str, float]
    gpus: tuple[tuple[int, float], ...]
    others: tuple[Place, ...] = ()

    @property
    def each(self) -> tuple[Place, ...]:
        """This place and the others."""
        return (self, *self.others)


@dataclass
class _Machine:
    free: Amounts
    gpus: list[float]

    @property
    def room(self) -> Room:
        amounts = tuple(sorted((name, round(amount, 6)) for name, amount in self.free.items()))
        return amounts, tuple(sorted(round(share, 6) for share in self.gpus))


class Floor:
    """The machines and what is taken of them."""

    def __init__(self, shapes: Sequence[MachineShape]) -> None:
        self.shapes = {shape.name or str(number): shape_amounts(shape) for number, shape in enumerate(shapes)}
        self._machines = {name: _Machine(dict(amounts), gpus_of(amounts)) for name, amounts in self.shapes.items()}
        self._with_room: dict[Room, dict[str, None]] = {}
        self._room_of: dict[str, Room] = {}
        self._places_for: dict[tuple[tuple[str, float], ...], int] = {}
        for name in self._machines:
            self._file(name)

    def take(self, wanted: Mapping[str, float], *, workers: int = 1) -> Place | None:
        """Take a request from the machine with the least to spare that has room; None where none has.

        So large requests find room elsewhere, and GPUs are left to who asks for them. Each of several workers takes it, all or
        none of them.
        """
        if workers > 1:
            return self._take_each(wanted, workers)
        fitting = [room for room in self._with_room if _has_room(wanted, room)]
        if not fitting:
            return None
        name = next(iter(self._with_room[min(fitting, key=_to_spare)]))
        place = Place(name, wanted, self._choose_gpus(name, wanted.get(GPU, 0.0)))
        self.account(place, -1)
        return place

    def account(self, place: Place, sign: int) -> None:
        """Count a place as free again (+1) or as taken (-1); of a machine that is gone, nothing."""
        for other in place.others:
            self.account(other, sign)
        machine = self._machines.get(place.machine)
        if machine is None:
            return
        for name, amount in place.amounts.items():
            machine.free[name] = machine.free.get(name, 0.0) + sign * amount
        for number, share in place.gpus:
            if number < len(machine.gpus):  # a machine may come back under its name with fewer
                machine.gpus[number] += sign * share
        self._file(place.machine)

    def could_give(self, wanted: Mapping[str, float], *, workers: int = 1) -> bool:
        """Whether there is room for this while nothing else runs."""
        return any(fits(wanted, shape) for shape in self.shapes.values()) and (
            workers == 1 or self.places_for(wanted) >= workers
        )

    def reason_infeasible(self, wanted: Mapping[str, float], *, workers: int = 1) -> str:
        """Why no machine could ever give this; empty if one can."""
        if self.could_give(wanted, workers=workers):
            return ""
        offers = "; ".join(dict.fromkeys(describe(shape) for shape in self.shapes.values())) or "no machine"
        asked = describe(wanted) if workers == 1 else f"{workers} workers with {describe(wanted)} each"
        return f"it asks for {asked}, and there is {offers}"

    def places_for(self, wanted: Mapping[str, float]) -> int:
        """How many such requests the machines hold at once when nothing else runs. Asked at every turn of a search."""
        request = tuple(sorted(wanted.items()))
        if request not in self._places_for:
            self._places_for[request] = self._count_places(wanted)
        return self._places_for[request]

    def _count_places(self, wanted: Mapping[str, float]) -> int:
        """The same, counted."""
        share = wanted.get(GPU, 0.0)
        found = 0
        for shape in self.shapes.values():
            numbers = [int((shape.get(name, 0.0) + EPSILON) // amount) for name, amount in wanted.items() if name != GPU]
            if share:
                gpus = len(gpus_of(shape))
                numbers.append(gpus * int((1 + EPSILON) // share) if share < 1 else int((gpus + EPSILON) // share))
            found += min(numbers, default=0)
        return found

    def _take_each(self, wanted: Mapping[str, float], workers: int) -> Place | None:
        places: list[Place] = []
        while len(places) < workers and (place := self.take(wanted)) is not None:
            places.append(place)
        if len(places) == workers:
            return replace(places[0], others=tuple(places[1:]))
        for place in places:
            self.account(place, +1)
        return None

    def _choose_gpus(self, name: str, share: float) -> tuple[tuple[int, float], ...]:
        """A fraction from the fullest GPU that has it, whole ones from those that are free."""
        if not share:
            return ()
        gpus = self._machines[name].gpus
        if share < 1:
            number = min((number for number, free in enumerate(gpus) if free + EPSILON >= share), key=gpus.__getitem__)
            return ((number, share),)
        whole = [number for number, free in enumerate(gpus) if free + EPSILON >= 1]
        return tuple((number, 1.0) for number in whole[: round(share)])

    def _file(self, name: str) -> None:
        """Put a machine among those with the same room."""
        before = self._room_of.get(name)
        room = self._machines[name].room
        if before == room:
            return
        if before is not None:
            del self._with_room[before][name]
            if not self._with_room[before]:
                del self._with_room[before]
        self._with_room.setdefault(room, {})[name] = None
        self._room_of[name] = room


def request_amounts(resources: Resources) -> Amounts:
    """The request of each worker by resource name, what is not asked for left out."""
    amounts = {"CPU": float(resources.cpus), GPU: float(resources.gpus), "memory": float(resources.memory or 0)}
    return {name: amount for name, amount in {**amounts, **resources.custom}.items() if amount > 0}


def shape_amounts(shape: MachineShape) -> Amounts:
    """What a machine offers, by resource name."""
    return {"CPU": shape.cpus, GPU: shape.gpus, "memory": float(shape.memory_bytes), **shape.custom}


def gpus_of(amounts: Mapping[str, float]) -> list[float]:
    """The GPUs of a machine, each as what is free of it."""
    offered = amounts.get(GPU, 0.0)
    whole = int(offered + EPSILON)
    return [1.0] * whole + ([offered - whole] if offered - whole > EPSILON else [])


def fits(wanted: Mapping[str, float], offered: Mapping[str, float]) -> bool:
    """Whether a machine that offers this, and runs nothing, has room."""
    return all(offered.get(name, 0.0) + EPSILON >= amount for name, amount in wanted.items())


def weight(amounts: Mapping[str, float]) -> tuple[float, float, float]:
    """By which of two requests the larger is told."""
    return (amounts.get(GPU, 0.0), amounts.get("CPU", 0.0), amounts.get("memory", 0.0))


def describe(amounts: Mapping[str, float]) -> str:
    """In words for people."""
    texts = [
        f"{amount / 2**30:.1f} GiB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in amounts.items()
        if 0 < amount < UNBOUNDED_BYTES
    ]
    return ", ".join(texts) or "nothing"


def _has_room(wanted: Mapping[str, float], room: Room) -> bool:
    free = dict(room[0])
    if not fits(wanted, free):
        return False
    share = wanted.get(GPU, 0.0)
    if not share:
        return True
    if share < 1:
        return room[1][-1] + EPSILON >= share
    return sum(each + EPSILON >= 1 for each in room[1]) >= round(share)


def _to_spare(room: Room) -> tuple[float, float]:
    free = dict(room[0])
    return (free.get(GPU, 0.0), free.get("CPU", 0.0))
