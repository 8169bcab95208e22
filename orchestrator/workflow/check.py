"""A loaded workflow against the stage catalog: names, references, artifact kinds, order. Reads settings classes only.

All problems of a file are raised together, those found on loading included. What depends on a model or a machine (channels
that a block size does not divide, more GPUs than there are) shows itself later, in the stage or the engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import WorkflowError
from orchestrator.workflow.check_params import check_params
from orchestrator.workflow.load import LoadedWorkflow
from orchestrator.workflow.order import order_of
from orchestrator.workflow.places import Findings, KeyPath, entry, list_names, nearest, shorten
from orchestrator.workflow.spec import NAME_PATTERN, NAME_RULE, Node, Resources, When
from stages import catalog
from stages.contract import Port, StageSpec

ANY_KIND = "any"
RESERVED_RESOURCES = {"cpu": "cpus", "gpu": "gpus", "memory": "memory"}


@dataclass(frozen=True)
class CheckedWorkflow:
    """A workflow in which every name, value and reference has been found good.

    References are plain node names: `loaded.workflow` holds `node` where the file says `node.output`. `order` is topological,
    and the file's own order wherever that leaves a choice.
    """

    loaded: LoadedWorkflow
    specs: Mapping[str, StageSpec]
    order: tuple[str, ...]


def check_workflow(loaded: LoadedWorkflow) -> CheckedWorkflow:
    """Check everything that can be known without a model and a machine; raises WorkflowError with all problems."""
    return _Check(loaded).run()


class _Check:
    """One pass over a workflow. `edges[node][target]` is the place where the node refers to the target."""

    def __init__(self, loaded: LoadedWorkflow) -> None:
        self.loaded = loaded
        self.nodes = loaded.workflow.nodes
        self.findings = Findings(loaded.lines, loaded.problems, loaded.reported)
        self.specs: dict[str, StageSpec] = {}
        self.edges: dict[str, dict[str, KeyPath]] = {name: {} for name in self.nodes}

    def run(self) -> CheckedWorkflow:
        if not self.nodes and not self.loaded.unread:
            expected, example = "at least one node", "nodes: {first: {stage: pretrain.classifier}}"
            if not self.findings.known_at(("nodes",)):
                self.findings.add(
                    ("nodes",),
                    "the workflow has no nodes",
                    found="an empty mapping",
                    expected=expected,
                    suggestion=f"add {example}",
                )
        for name, node in self.nodes.items():
            self._stage(name, node)
        for name, node in self.nodes.items():
            is_whole = not self.findings.known_below(("nodes", name))
            spec = self.specs.get(name)
            if spec is not None:
                check_params(name, node, spec, findings=self.findings, is_whole=is_whole)
            self._inputs(name, node, spec, is_whole=is_whole)
            self._foreach_inputs(name, node, spec)
            self._needs(name, node)
            self._when(name, node.when)
            self._resources(name, node.resources)
        for name in [*self.nodes, *sorted(self.loaded.unread)]:
            self._name(name)
        order, cycles = order_of(self.edges)
        for cycle in cycles:
            self._cycle(cycle)
        if self.findings.problems:
            raise WorkflowError(self.findings.sorted())
        return CheckedWorkflow(loaded=_with_plain_references(self.loaded, self.specs), specs=self.specs, order=order)

    def _name(self, name: str) -> None:
        if re.fullmatch(NAME_PATTERN, name) is None:
            self.findings.add(
                ("nodes", name),
                f'"{shorten(name)}" cannot be the name of a node',
                found=f'"{shorten(name)}:"',
                expected=NAME_RULE,
                suggestion=f"rename it, for example {_plain_name(name)}",
            )

    def _stage(self, name: str, node: Node) -> None:
        spec = catalog.find_stage(node.stage)
        if spec is not None:
            self.specs[name] = spec
            return
        stages = catalog.all_stages()
        kind = node.stage.partition(".")[0]
        same_kind = [stage for stage in stages if stage.startswith(f"{kind}.")]
        self.findings.add(
            ("nodes", name, "stage"),
            f'node "{shorten(name)}": unknown stage "{shorten(node.stage)}"',
            found=entry("stage", node.stage),
            expected=f"one of the stages {list_names(same_kind or stages)}",
            suggestion=self.findings.did_you_mean(node.stage, stages),
            next_step="orchestrator stages ls",
        )

    def _inputs(self, name: str, node: Node, spec: StageSpec | None, *, is_whole: bool) -> None:
        for port_name, reference in node.inputs.items():
            place: KeyPath = ("nodes", name, "inputs", port_name)
            port = self._port(name, port_name, spec, place, found=entry(port_name, reference))
            if isinstance(reference, str):
                self._edge(name, port_name, reference, place, port)
                continue
            if port is not None and not port.many:
                self.findings.add(
                    place,
                    f'node "{name}": input "{port_name}" takes one artifact',
                    found=entry(port_name, reference),
                    expected="the name of one node",
                    suggestion=f"to run this node once for each: foreach: {{{port_name}: [{list_names(reference)}]}}",
                )
                port = None
            elif spec is not None and port is not None and not reference and not port.optional:
                self._missing_port(name, port_name, port, spec, place)
            for index, item in enumerate(reference):
                self._edge(name, port_name, item, (*place, index), port)
                if item in reference[:index]:
                    self.findings.add(
                        (*place, index),
                        f'node "{name}": input "{port_name}" lists "{shorten(item)}" twice',
                        found=entry(port_name, reference),
                        expected="each node once",
                        suggestion="remove one of the two",
                    )
        if spec is not None and is_whole:
            self._required_ports(name, node, spec)

    def _required_ports(self, name: str, node: Node, spec: StageSpec) -> None:
        unknown = [given for given in node.inputs if given not in spec.inputs]
        for port_name, port in spec.inputs.items():
            is_misspelt = any(nearest(given, [port_name]) for given in unknown)
            if not port.optional and not is_misspelt and port_name not in node.inputs and port_name not in node.foreach:
                self._missing_port(name, port_name, port, spec, ("nodes", name, "inputs"))

    def _port(self, name: str, port_name: str, spec: StageSpec | None, place: KeyPath, *, found: str) -> Port | None:
        if spec is None or port_name in spec.inputs:
            return spec.inputs[port_name] if spec is not None else None
        is_parameter = port_name in spec.settings.model_fields
        self.findings.add(
            place,
            f'node "{name}": unknown input "{shorten(port_name)}"',
            found=found,
            expected=f"stage {spec.name} takes {_ports(spec)}",
            suggestion=f"{port_name} is a parameter: write it under params"
            if is_parameter
            else self.findings.did_you_mean(port_name, spec.inputs),
            next_step=f"orchestrator stages show {spec.name}",
        )
        return None

    def _missing_port(self, name: str, port_name: str, port: Port, spec: StageSpec, place: KeyPath) -> None:
        makers = [other for other, made in self.specs.items() if other != name and port.kind in {ANY_KIND, made.output}]
        self.findings.add(
            place,
            f'node "{name}": input "{port_name}" is missing',
            found=f"inputs from {list_names(self.nodes[name].inputs)}" if self.nodes[name].inputs else "no inputs",
            expected=f"stage {spec.name} takes {_ports(spec)}",
            suggestion=f"write inputs: {{{port_name}: {makers[0] if len(makers) == 1 else 'NODE'}}}"
            + (f", with one of {list_names(makers, limit=6)}" if len(makers) > 1 else ""),
            next_step=f"orchestrator stages show {spec.name}",
        )

    def _foreach_inputs(self, name: str, node: Node, spec: StageSpec | None) -> None:
        for port_name in [port for port in node.foreach if spec is not None and port in spec.inputs]:
            assert spec is not None
            place: KeyPath = ("nodes", name, "foreach", port_name)
            port = spec.inputs[port_name]
            if port_name in node.inputs:
                self.findings.add(
                    place,
                    f'node "{name}": "{port_name}" stands under both inputs and foreach',
                    found=entry(port_name, node.inputs[port_name]),
                    expected="one of the two",
                    suggestion=f"remove {port_name} from inputs",
                )
            if port.many:
                self.findings.add(
                    place,
                    f'node "{name}": input "{port_name}" takes several artifacts at once, so foreach cannot list them',
                    found=entry(port_name, node.foreach[port_name]),
                    expected=f"a list of nodes under inputs: {{{port_name}: [...]}}",
                    suggestion="move the list to inputs",
                )
                continue
            for index, reference in enumerate(node.foreach[port_name]):
                if isinstance(reference, str):
                    self._edge(name, port_name, reference, (*place, index), port)
                else:
                    self.findings.add(
                        (*place, index),
                        f'node "{name}": value {index + 1} of foreach "{port_name}" is not a reference',
                        found=entry(index, reference),
                        expected=f"the name of a node, since {port_name} is an input",
                        suggestion=f"one of {list_names(other for other in self.nodes if other != name)}",
                    )

    def _edge(self, name: str, port_name: str, reference: str, place: KeyPath, port: Port | None) -> None:
        """Note that an input refers to a node, and check that the node makes what the port takes."""
        target, _, output = reference.partition(".")
        if not self._known(name, target, place, found=entry(port_name, reference)):
            return
        if output not in {"", "output"} or reference.endswith("."):
            self.findings.add(
                place,
                f'node "{name}": "{shorten(reference)}" names an output that there is not',
                found=entry(port_name, reference),
                expected=f'the name of a node: each node has one output, so "{target}" says it all',
                suggestion=f"write {port_name}: {target}",
            )
        made = self.specs.get(target)
        if port is None or made is None or port.kind in {ANY_KIND, made.output}:
            return
        fitting = [other for other, spec in self.specs.items() if spec.output == port.kind and other != name]
        self.findings.add(
            place,
            f'node "{name}": input "{port_name}" takes another kind of artifact',
            found=f"{entry(port_name, reference)}, and {target} ({made.name}) makes {made.output}",
            expected=f"a node that makes {port.kind}",
            suggestion=f"one of {list_names(fitting, limit=6)}" if fitting else f"add a node whose stage makes {port.kind}",
            next_step=f"orchestrator stages show {made.name}",
        )

    def _known(self, name: str, target: str, place: KeyPath, *, found: str) -> bool:
        """Is `target` a node other than this one? Then it is noted as an edge; else it is reported."""
        if target == name:
            self.findings.add(
                place,
                f'node "{shorten(name)}" refers to itself',
                found=found,
                expected="the name of another node",
                suggestion="remove the reference, or name the node whose result is meant",
            )
        elif target in self.nodes:
            self.edges[name].setdefault(target, place)
            return True
        elif target not in self.loaded.unread:
            self.findings.add(
                place,
                f'node "{shorten(name)}" refers to "{shorten(target)}", and the workflow has no such node',
                found=found,
                expected=f"one of the nodes {list_names(other for other in self.nodes if other != name)}",
                suggestion=self.findings.did_you_mean(target, (other for other in self.nodes if other != name)),
            )
        return False

    def _needs(self, name: str, node: Node) -> None:
        for index, target in enumerate(node.needs):
            self._known(name, target, ("nodes", name, "needs", index), found=f'"needs: {shorten(target)}"')

    def _when(self, name: str, when: When | None) -> None:
        if when is None:
            return
        place: KeyPath = ("nodes", name, "when")
        target, dot, metric = when.metric.partition(".")
        found = entry("metric", when.metric)
        if not dot or not target or not metric:
            self.findings.add(
                (*place, "metric"),
                f'node "{name}": when.metric does not name a node and a metric',
                found=found,
                expected='"node.metric"',
                suggestion="for example pretrain.top1_accuracy",
            )
        elif self._known(name, target, (*place, "metric"), found=found) and target in self.specs:
            metrics = self.specs[target].metrics
            if metrics and metric not in metrics:
                self.findings.add(
                    (*place, "metric"),
                    f'node "{name}": node "{target}" reports no metric "{shorten(metric)}"',
                    found=found,
                    expected=f"one of the metrics {list_names(metrics)}",
                    suggestion=self.findings.did_you_mean(metric, metrics),
                    next_step=f"orchestrator stages show {self.specs[target].name}",
                )
        if when.min is None and when.max is None:
            problem, suggestion = "when has no bound", "add min: or max:"
        elif when.min is not None and when.max is not None and when.min > when.max:
            problem, suggestion = "when can never hold: min is above max", "swap min and max"
        else:
            return
        bounds = f'"min: {when.min:g}, max: {when.max:g}"' if when.min is not None and when.max is not None else found
        self.findings.add(
            place, f'node "{name}": {problem}', found=bounds, expected="min, max, or min below max", suggestion=suggestion
        )

    def _resources(self, name: str, resources: Resources) -> None:
        place: KeyPath = ("nodes", name, "resources")
        for field, amount in (("cpus", resources.cpus), ("gpus", resources.gpus)):
            if amount > 1 and amount != int(amount):
                self.findings.add(
                    (*place, field),
                    f'node "{name}": {field} above 1 must be a whole number',
                    found=f'"{field}: {amount:g}"',
                    expected="a fraction below 1, or a whole number",
                    suggestion=f"write {field}: {int(amount)} or {field}: {int(amount) + 1}",
                )
        for custom, amount in resources.custom.items():
            field = RESERVED_RESOURCES.get(custom.lower(), "")
            if field or amount <= 0 or not custom:
                self.findings.add(
                    (*place, "custom", custom),
                    f'node "{name}": "{shorten(custom)}" cannot be a custom resource'
                    if field or not custom
                    else f'node "{name}": custom resource "{shorten(custom)}" is out of range',
                    found=f'"{shorten(custom)}: {amount:g}"',
                    expected=f"resources.{field}" if field else "a name and a number above 0",
                    suggestion=f"write {field}: {amount:g} under resources" if field else "remove it or ask for 1",
                )

    def _cycle(self, cycle: tuple[str, ...]) -> None:
        path = " -> ".join([*cycle, cycle[0]])
        self.findings.add(
            self.edges[cycle[0]][cycle[1]],
            f'node "{cycle[0]}" needs its own result: the references form a cycle',
            found=path if len(path) <= 2000 else f"{path[:2000]} ... ({len(cycle)} nodes)",
            expected="references that lead back to a node without inputs",
            suggestion=f'remove one of these references, for example that of "{cycle[0]}" to "{cycle[1]}"',
        )


def _with_plain_references(loaded: LoadedWorkflow, specs: Mapping[str, StageSpec]) -> LoadedWorkflow:
    """`loaded` with `node.output` written as `node`, so that nothing later has to know both forms."""
    changed = {}
    for name, node in loaded.workflow.nodes.items():
        inputs = {
            port: _target(value) if isinstance(value, str) else tuple(_target(item) for item in value)
            for port, value in node.inputs.items()
        }
        foreach = {
            key: tuple(_target(item) for item in values) if key in specs[name].inputs else values
            for key, values in node.foreach.items()
        }
        if inputs != node.inputs or foreach != node.foreach:
            changed[name] = node.model_copy(update={"inputs": inputs, "foreach": foreach})
    if not changed:
        return loaded
    nodes = {**loaded.workflow.nodes, **changed}
    return replace(loaded, workflow=loaded.workflow.model_copy(update={"nodes": nodes}))


def _target(reference: str) -> str:
    return reference.partition(".")[0]


def _ports(spec: StageSpec) -> str:
    """The inputs of a stage with their kinds, as a list in words."""
    described = [
        f"{name} ({'several ' if port.many else ''}{port.kind}{', optional' if port.optional else ''})"
        for name, port in spec.inputs.items()
    ]
    return f"the inputs {list_names(described)}" if described else "no inputs"


def _plain_name(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name[:63]).strip("-")
    return plain if re.fullmatch(NAME_PATTERN, plain) else f"n_{plain}"[:63]
