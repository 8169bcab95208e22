"""What a sweep wants and how it searches: objectives, constraints, sampler, early stopping, selection, finalists."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.workflow.check_nodes import ANY_KIND, NodesCheck
from orchestrator.workflow.check_params import repeats
from orchestrator.workflow.check_space import check_space
from orchestrator.workflow.places import KeyPath, entry, list_names, shorten
from orchestrator.workflow.references import split_metric
from orchestrator.workflow.search_space import num_values
from orchestrator.workflow.spec import Node
from orchestrator.workflow.sweep_spec import Constraint, Sweep, SweepNode


def check_sweep(name: str, node: SweepNode, parts: NodesCheck, outer: NodesCheck, *, workflow_seed: int) -> None:
    """Check sweep `name` beside its nodes (`parts`), which are checked by themselves; `outer` are the nodes around it."""
    check = _SweepCheck(name, node.sweep, parts, outer)
    check.run(workflow_seed)
    outer.name(name)
    for index, target in enumerate(node.needs):
        outer.need(name, target, ("nodes", name, "needs", index))
    for part in node.nodes:
        if part in outer.nodes or part in outer.scope.sweeps:
            outer.findings.add(
                ("nodes", name, "nodes", part),
                f'node "{shorten(name)}.{shorten(part)}" has the name of a node outside of the sweep',
                found=f'"{shorten(part)}" inside and outside',
                expected="names that a reference can tell apart",
                suggestion=f"rename one of them, for example {part}_trial",
            )


class _SweepCheck:
    def __init__(self, name: str, sweep: Sweep, parts: NodesCheck, outer: NodesCheck) -> None:
        self.name = name
        self.said = f'node "{shorten(name)}"'
        self.sweep = sweep
        self.parts = parts
        self.outer = outer
        self.findings = parts.findings
        self.place: KeyPath = ("nodes", name, "sweep")

    def run(self, workflow_seed: int) -> None:
        for field, what in (("space", "searches nothing"), ("objectives", "has nothing to aim at")):
            if not getattr(self.sweep, field):
                self._add(
                    (field,),
                    f"the sweep {what}",
                    found=f'"{field}: {{}}"',
                    expected="at least one line",
                    suggestion='add "NODE.PARAMETER": {choice: [...]}' if field == "space" else 'add "NODE.METRIC": maximize',
                )
        check_space(self.name, self.sweep.space, self.parts.scope)
        for text in self.sweep.objectives:
            self._metric(text, ("objectives", text), found=entry(text, self.sweep.objectives[text]))
        for index, constraint in enumerate(self.sweep.constraints):
            self._constraint(constraint, ("constraints", index))
        self._trials()
        self._early_stopping()
        self._selection()
        self._finalists(workflow_seed)
        if self.sweep.sampler.kind == "pbt":
            self._population()

    def _add(self, path: KeyPath, what: str, *, found: str, expected: str, suggestion: str) -> None:
        place = (*self.place, *path)
        if not self.findings.known_at(place) and not self.findings.known_below(place):
            self.findings.add(place, f"{self.said}: {what}", found=found, expected=expected, suggestion=suggestion)

    def _metric(self, text: str, path: KeyPath, *, found: str, is_progress: bool = False) -> None:
        """Check a text that must name a node of the trial and a metric of it; what it reports on its way is not declared."""
        part, _, metric = text.partition(".")
        place = (*self.place, *path)
        nodes = self.parts.nodes
        if not metric or part not in nodes:
            if (*self.parts.scope.place, part) not in self.findings.reported and (
                (*self.parts.scope.place, part) not in self.parts.scope.unread
            ):
                self._add(
                    path,
                    f'"{shorten(text)}" does not name a metric of a node of the trial',
                    found=found,
                    expected=f'"node.metric" with one of the nodes {list_names(nodes)}',
                    suggestion=self.findings.did_you_mean(part, nodes) or f"for example {list(nodes)[-1]}.top1_accuracy",
                )
        elif not is_progress:
            self.parts.reports(part, part, metric, self.parts.specs.get(part), place, found=found)

    def _constraint(self, constraint: Constraint, path: KeyPath) -> None:
        self._metric(constraint.metric, (*path, "metric"), found=entry("metric", constraint.metric))
        is_relative = constraint.max_drop is not None or constraint.max_ratio is not None
        found = f'"metric: {shorten(constraint.metric)}"'
        if constraint.min is None and constraint.max is None and not is_relative:
            self._add(
                path,
                "a constraint has nothing to check",
                found=found,
                expected="one or more of min, max, max_drop and max_ratio",
                suggestion=f"for example {{metric: {constraint.metric}, max_ratio: 0.8, versus: NODE.METRIC}}",
            )
        if constraint.min is not None and constraint.max is not None and constraint.min > constraint.max:
            self._add(
                path,
                "a constraint can never hold: min is above max",
                found=f'"min: {constraint.min:g}, max: {constraint.max:g}"',
                expected="min below max",
                suggestion="swap min and max",
            )
        if is_relative != bool(constraint.versus):
            what = "max_drop and max_ratio compare with nothing" if is_relative else "versus has nothing to compare with it"
            self._add(
                path,
                f"a constraint is incomplete: {what}",
                found=found,
                expected="max_drop or max_ratio, and versus",
                suggestion="add versus: NODE.METRIC, of a node outside of the sweep"
                if is_relative
                else "add max_drop or max_ratio, or remove versus",
            )
        if constraint.versus:
            self._versus(constraint.versus, (*path, "versus"))
        part, metric = split_metric(constraint.metric)
        spec = self.parts.specs.get(part)
        if constraint.check == "static" and spec is not None and metric not in spec.forecast_metrics:
            known = [f"{part}.{name}" for name in spec.forecast_metrics]
            self._add(
                (*path, "check"),
                f"{constraint.metric} cannot be decided before the trial runs",
                found='"check: static"',
                expected=f"one of {list_names(known)}"
                if known
                else f"a metric that {spec.name} forecasts, and it forecasts none",
                suggestion="remove check: static; the constraint then holds for what the trial reports",
            )

    def _versus(self, text: str, path: KeyPath) -> None:
        head = text.partition(".")[0]
        found = entry("versus", text)
        outside = [other for other in self.outer.nodes if not self.outer.scope.is_expanded(other)]
        if head in self.parts.nodes or head in self.outer.scope.sweeps:
            where = "inside the sweep" if head in self.parts.nodes else "a sweep"
            what = f'versus names "{shorten(head)}", which is {where}'
        elif self.outer.scope.is_expanded(head):
            what = f'versus names "{shorten(head)}", which foreach makes several of'
        else:
            self.outer.metric(self.name, text, (*self.place, *path), field="versus", found=found)
            return
        self._add(
            path,
            what,
            found=found,
            expected=f'"node.metric" of a node outside: {list_names(outside)}',
            suggestion=f"for example {outside[0]}.{text.rpartition('.')[2]}" if outside else "compare with min or max",
        )

    def _trials(self) -> None:
        sampler, trials = self.sweep.sampler, self.sweep.trials
        if sampler.kind == "grid":
            for key, distribution in self.sweep.space.items():
                if distribution.choice is None and num_values(distribution) is None:
                    self._add(
                        ("space", key),
                        f'a grid has no points on "{shorten(key)}", which is continuous',
                        found=entry(key, distribution.model_dump(mode="json", exclude_unset=True)),
                        expected="a choice, an int, or a uniform range with a step",
                        suggestion="add step, or choose sampler: tpe",
                    )
        elif trials is None:
            self._add(
                ("trials",),
                f"sampler {sampler.kind} has to know how many settings to try",
                found="no trials",
                expected="trials: a whole number",
                suggestion="add trials: 20",
            )

    def _early_stopping(self) -> None:
        scheduler, objectives = self.sweep.scheduler, self.sweep.objectives
        if scheduler.kind == "none":
            return
        path: KeyPath = ("scheduler", "metric")
        if scheduler.metric:
            self._metric(scheduler.metric, path, found=entry("metric", scheduler.metric), is_progress=True)
        elif len(objectives) > 1:
            self._add(
                ("scheduler",),
                f"{scheduler.kind} has to know by which metric to stop trials: there are {len(objectives)} objectives",
                found=f'"kind: {scheduler.kind}"',
                expected='metric: "node.metric" that a node reports while it trains',
                suggestion=f"add metric: {next(iter(objectives))}",
            )
        if scheduler.metric and scheduler.metric not in objectives and scheduler.mode is None:
            self._add(
                ("scheduler",),
                f'"{shorten(scheduler.metric)}" is no objective, so it is not known which way is better',
                found=entry("metric", scheduler.metric),
                expected="mode: maximize or mode: minimize",
                suggestion="add mode: maximize",
            )

    def _selection(self) -> None:
        select, objectives = self.sweep.select, self.sweep.objectives
        found = entry("metric", select.metric)
        if select.metric:
            self._metric(select.metric, ("select", "metric"), found=found)
        if not objectives:  # told already
            return
        if select.rule == "best" and select.metric and select.metric not in objectives:
            self._add(
                ("select", "metric"),
                f'"{shorten(select.metric)}" is no objective, so it is not known which way is better',
                found=found,
                expected=f"one of the objectives {list_names(objectives)}",
                suggestion=f"add it to the objectives, or write metric: {next(iter(objectives))}",
            )
        if select.rule == "smallest_within" and not select.metric:
            self._add(
                ("select",),
                "smallest_within does not say of what the smallest is chosen",
                found=f'"rule: {select.rule}"',
                expected='metric: "node.metric"',
                suggestion=f"add metric: {list(objectives)[-1]}",
            )
        for field, is_used in (("metric", select.rule != "knee"), ("tolerance", select.rule == "smallest_within")):
            if getattr(select, field) and not is_used:
                self._add(
                    ("select", field),
                    f"{field} means nothing to rule {select.rule}",
                    found=entry(field, getattr(select, field)),
                    expected="rule: smallest_within" if field == "tolerance" else "rule: best or smallest_within",
                    suggestion=f"remove {field}, or change the rule",
                )

    def _finalists(self, workflow_seed: int) -> None:
        finalists = self.sweep.finalists
        seeds = finalists.seeds if finalists is not None else ()
        again = {index: f"value {first + 1} of the list" for first, index in repeats(seeds)}
        again |= {index: "the workflow's own seed" for index, seed in enumerate(seeds) if seed == workflow_seed}
        for index, what in again.items():
            self._add(
                ("finalists", "seeds", index),
                f"seed {seeds[index]} of the finalists would repeat a run",
                found=f'"{seeds[index]}", which is {what}',
                expected="seeds that differ from each other and from the workflow's",
                suggestion=f"write {max(*seeds, workflow_seed) + 1}",
            )

    def _population(self) -> None:
        sampler, trials = self.sweep.sampler, self.sweep.trials
        if trials is not None and trials % sampler.population:
            generations = max(1, round(trials / sampler.population))
            self._add(
                ("trials",),
                "trials of population-based training come in whole generations",
                found=f'"trials: {trials}", with a population of {sampler.population}',
                expected=f"a multiple of {sampler.population}",
                suggestion=f"write trials: {generations * sampler.population}",
            )
        if not sampler.carry:
            self._add(
                ("sampler",),
                "population-based training does not say what a trial takes over from the one it goes on from",
                found='"kind: pbt"',
                expected='carry: {"node.port": node}',
                suggestion=f"for example carry: {{{_example_of_carry(self.parts.nodes)}}}",
            )
        for text, maker in sampler.carry.items():
            self._carry(text, maker)

    def _carry(self, text: str, maker: str) -> None:
        part, _, port_name = text.partition(".")
        path: KeyPath = ("sampler", "carry", text)
        found = entry(text, maker)
        nodes, specs = self.parts.nodes, self.parts.specs
        if part not in nodes or not port_name or (part in specs and port_name not in specs[part].inputs):
            ports = [f"{name}.{port}" for name, spec in specs.items() for port, at in spec.inputs.items() if not at.many]
            self._add(
                path,
                f'carry names no input of a node of the trial: "{shorten(text)}"',
                found=found,
                expected=f'"node.port", one of {list_names(ports)}',
                suggestion=self.findings.did_you_mean(text, ports),
            )
        elif maker not in nodes:
            self._add(
                path,
                f'carry takes over from "{shorten(maker)}", which is no node of the trial',
                found=found,
                expected=f"one of the nodes {list_names(nodes)}",
                suggestion=self.findings.did_you_mean(maker, nodes),
            )
        elif part in specs and maker in specs:
            port, made = specs[part].inputs[port_name], specs[maker].output
            takes = "several artifacts" if port.many else port.kind
            if port.many or port.kind not in {ANY_KIND, made}:
                self._add(
                    path,
                    f'carry does not fit: input "{port_name}" of {part} takes {takes}',
                    found=f"{found}, and {maker} makes {made}",
                    expected=f"a node that makes {port.kind}, on an input that takes one",
                    suggestion=f"one of {list_names(one for one, spec in specs.items() if spec.output == port.kind)}",
                )


def _example_of_carry(nodes: Mapping[str, Node]) -> str:
    for name, node in nodes.items():
        for port in node.inputs:
            return f"{name}.{port}: {name}"
    return "NODE.PORT: NODE"
