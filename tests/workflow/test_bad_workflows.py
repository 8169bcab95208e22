"""Every broken file of `bad/`: what is told, on which line, and that nothing else is told.

A user meets this table on the worst day: each message has to name the line, what was found, what is expected and what to do.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.errors import UsageError, WorkflowError
from orchestrator.report.problems import format_problem
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text, load_workflow

BAD = Path(__file__).parent / "bad"

# file -> for each of its problems, in order: (line, words that the printed problem must hold)
EXPECTED: dict[str, list[tuple[int, tuple[str, ...]]]] = {
    # not YAML, or not the YAML we take
    "alias_bomb": [(7, ("too many values", "aliases", "at most 100000"))],
    "alias_inside_itself": [(7, ('"*loop"', "inside its own anchor"))],
    "bad_yaml_at_sign": [(7, ("value: @home", "in quotes"))],
    "bad_yaml_colon": [(5, ("stage: probe.echo: echo", "quotes"))],
    "bad_yaml_indentation": [(6, ("params: {value: 1}", "indentation", "starts on line 4"))],
    "bad_yaml_unclosed_bracket": [(5, ("close the bracket", "starts on line 4"))],
    "bad_yaml_unclosed_quote": [(5, ("probe.echo", "close the quote"))],
    "control_character": [(6, ("U+0007", "invisible character"))],
    "custom_tag": [(7, ("!!python/object/apply:os.system", "plain data"))],
    "deep_nesting": [(7, ("nested too deep", "at most 50 levels"))],
    "duplicate_key": [(7, ('"params"', "on line 6 and on line 7"))],
    "duplicate_node": [(6, ('"first"', "on line 4 and on line 6"))],
    "empty": [(0, ("the file is empty", "version, name and nodes"))],
    "garbage": [(1, ("not UTF-8", "byte offset 1"))],
    "half_surrogate": [(6, ("\\uD800", "surrogate"))],
    "huge_float": [(6, ("1e400", "too large"))],
    "huge_integer": [(7, ("5000 characters", "below 2^63"))],
    "list_as_key": [(4, ("a key is not text",))],
    "merge_key": [(7, ("<<", "merge keys", "alias"))],
    "not_utf8": [(4, ("not UTF-8", "0xe9", "byte offset 79"))],
    "nul_byte": [(4, ("NUL", "byte offset 77"))],
    "number_as_key": [(4, ("a key is not text", '"1":'))],
    "only_comments": [(0, ("the file is empty",))],
    "own_tag": [(7, ("!secret", "plain data"))],
    "tab_after_spaces": [(7, ("tab", "spaces"))],
    "tab_indentation": [(5, ("tab", "spaces"))],
    "top_level_list": [(1, ("top level is not a mapping",))],
    "top_level_text": [(1, ("top level is not a mapping", "submit everything"))],
    "two_documents": [(5, ("second document", "---"))],
    "unknown_alias": [(5, ("*shard", "did you mean shared?"))],
    "utf16": [(1, ("not UTF-8", "UTF-16", "byte offset 0"))],
    # the workflow's own keys
    "bad_workflow_name": [(2, ("vit compress!", "a letter or _"))],
    "misspelt_node_key": [(6, ('node "first"', '"resource"', "did you mean resources?"))],
    "node_is_text": [(4, ('node "first"', "first: probe.echo", "a mapping"))],
    "node_name": [(4, ("first stage", "first_stage"))],
    "nodes_empty": [(3, ("no nodes", "at least one node"))],
    "nodes_list": [(3, ('"nodes"', "a mapping"))],
    "nodes_missing": [(1, ('"nodes" is missing', "version, name"))],
    "seed_negative": [(3, ("seed: -1", "at least 0"))],
    "seed_true": [(3, ("seed: true", "a whole number"))],
    "stage_misspelt_key": [(5, ('"stag"', "did you mean stage?"))],
    "stage_missing": [(4, ('node "first"', '"stage" is missing'))],
    "unknown_top_key": [(3, ('"sed"', "a workflow takes version, name, seed, notify, budget, nodes", "did you mean seed?"))],
    "version_from_the_future": [(1, ("version: 2", "expected 1"))],
    "version_missing": [(1, ('"version" is missing',))],
    # stages and parameters
    "bad_pattern": [(10, ("n_m: 4:2", "0 < N <= M"))],
    "dotted_parameter": [(9, ("data.height", "data: {height: ...}"))],
    "fraction_for_a_whole_number": [(9, ("epochs: 30.0", "a whole number", "write epochs: 30 "))],
    "input_under_params": [(10, ('"model"', "model is an input"))],
    "missing_parameter": [(6, ('parameter "model" is missing', "pretrain.classifier"))],
    "misspelt_nested_parameter": [(10, ('"data.hight"', "channels, height", "did you mean height?"))],
    "misspelt_parameter": [(10, ('"n_of_m"', '"n_of_m: 2:4"', "stage sparsify.lbc takes", "did you mean n_m?"))],
    "misspelt_required_parameter": [(7, ('"modle"', "did you mean model?"))],
    "not_a_number": [(7, ("seconds", "a finite number"))],
    "null_for_a_number": [(9, ('"epochs:"', "a whole number", "remove the line"))],
    "number_for_text": [(6, ("model: 18", "text", 'model: "18"'))],
    "out_of_range": [(10, ("removal_end: 1.5", "below 1"))],
    "parameters_that_do_not_fit": [(8, ("removal_start is 0.6 and removal_end 0.5", "start < end"))],
    "stage_without_kind": [(6, ('"lbc"', "did you mean sparsify.lbc?", "orchestrator stages ls"))],
    "text_for_a_number": [(9, ('epochs: "30"', "a whole number", "without quotes"))],
    "timeout_under_params": [(7, ('"timeout"', "beside params"))],
    "unknown_choice": [(9, ("optimizer: adam", '"adamw" or "sgd"', "did you mean adamw?"))],
    "unknown_data": [(8, ("data: digit", '"synthetic"', "did you mean digits?"))],
    "unknown_kind": [(5, ('"prune.lbc"', "sparsify.lbc", "orchestrator stages ls"))],
    "unknown_stage": [(5, ('"probe.ecko"', "did you mean probe.echo?", "orchestrator stages ls"))],
    "yes_for_true": [(10, ("allow_large_score_memory: yes", "true or false", "text in YAML 1.2"))],
    # foreach
    "foreach_and_parameter": [(8, ('"seconds" is given twice', "params", "foreach"))],
    "foreach_bad_value": [(9, ("value 2", '"-3"', "at least 0")), (10, ("value 3", '"soon"', "a number"))],
    "foreach_does_not_fit": [(8, ("removal_start is 0.4 and removal_end 0.3", "fit together"))],
    "foreach_duplicate": [(7, ("value 1 and as value 3",))],
    "foreach_empty": [(7, ("lists nothing", "at least one value"))],
    "foreach_on_several": [(8, ("takes several artifacts", "move the list to inputs"))],
    "foreach_scalar": [(7, ("seconds: 0.1", "a list", "[0.1]"))],
    "foreach_too_many": [(6, ("160000 combinations", "at most 100000"))],
    "foreach_unknown": [(7, ('"second"', "seconds, value", "did you mean seconds?"))],
    "foreach_wrong_kind": [(12, ("model: probe", "makes probe", "a node that makes model", "pretrain"))],
    # references
    "cycle_of_three": [(5, ("a -> c -> b -> a",))],
    "cycle_of_two": [(4, ("a -> b -> a",))],
    "input_is_a_mapping": [(8, ('input "inputs"', "text or a list"))],
    "list_for_one_artifact": [(9, ("takes one artifact", "foreach: {model: [pretrain, other]}"))],
    "misspelt_input": [(9, ('unknown input "modle"', "did you mean model?"))],
    "missing_input": [(5, ('input "model" is missing', "inputs: {model: pretrain}"))],
    "needs_text": [(7, ("needs: a", "a list", "[a]"))],
    "needs_unknown": [(7, ('"aa"', "no such node", "did you mean a?"))],
    "self_reference": [(6, ("refers to itself",))],
    "twice_in_a_list": [(7, ('lists "a" twice', "each node once"))],
    "two_cycles": [(4, ("a -> b -> a",)), (6, ("c -> d -> c",))],
    "unknown_node": [(8, ('"pretrian"', "no such node", "did you mean pretrain?"))],
    "unknown_output": [(8, ("pretrain.weights", "one output", "write model: pretrain"))],
    "when_cycle": [(4, ("a -> b -> a",))],
    "when_unknown_metric": [(7, ("top1_acuracy", "did you mean top1_accuracy?"))],
    "when_without_bound": [(7, ("no bound", "min"))],
    "when_without_metric": [(7, ("metric: pretrain", '"node.metric"'))],
    "wrong_artifact_kind": [(9, ("model: first", "makes probe", "a node that makes model"))],
    # resources and times
    "cpus_one_and_a_half": [(6, ("cpus: 1.5", "a whole number", "cpus: 1 or cpus: 2"))],
    "cpus_zero": [(7, ("cpus: 0", "above 0"))],
    "workers_of_one_process": [(6, ("probe.echo runs in one process", "workers: 4", "sparsify.lbc", "remove workers"))],
    "workers_share_a_gpu": [(7, ("workers cannot share a GPU", "gpus: 0.5", "write gpus: 1"))],
    "custom_resource_cpu": [(7, ('"CPU"', "resources.cpus"))],
    "gpus_negative": [(6, ("gpus: -1", "at least 0"))],
    "memory_odd_unit": [(6, ("4 gigs", "GiB"))],
    "memory_without_unit": [(6, ("memory: 4096", "with its unit", "MiB"))],
    "resource_misspelt": [(7, ('"resources.cpu"', "did you mean cpus?"))],
    "retry_attempts": [(6, ("attempts: 0", "at least 1"))],
    "timeout_odd_unit": [(6, ("5 fortnights", "with its unit"))],
    "timeout_without_unit": [(6, ("timeout: 10", "with its unit", "10s"))],
    "timeout_zero": [(6, ("timeout: 0s", "above 0"))],
    # a sweep, and several at once
    "sweep": [
        (6, ('node "search"', '"objectives" is missing', "trials, space")),
        (10, ('node "search.sparsify"', '"data" is missing')),
        (11, ('node "search.score"', '"data" is missing')),
        (13, ('no node "top1_accuracy"', "search.best.NODE", "sparsify, score")),
    ],
    "many_at_once": [
        (3, ('"sede"', "did you mean seed?")),
        (7, ("epochs: 0", "at least 1")),
        (8, ("timeout: 10", "10s")),
        (11, ('"pretrian"', "did you mean pretrain?")),
        (14, ('"n_of_m"', "did you mean n_m?")),
        (15, ('"resources.cpu"', "did you mean cpus?")),
        (17, ('"finetune.distil"', "did you mean finetune.distill?")),
        (20, ('"timeout"', "on line 19 and on line 20")),
    ],
}


def problems_of(path: Path):
    with pytest.raises(WorkflowError) as raised:
        check_workflow(load_workflow(path))
    assert raised.value.exit_code == 2
    return raised.value.problems


def test_every_broken_file_is_in_the_table():
    assert sorted(path.stem for path in BAD.glob("*.yaml")) == sorted(EXPECTED)
    assert len(EXPECTED) >= 40


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_broken_file_tells_line_cause_and_cure_and_nothing_more(name):
    path = BAD / f"{name}.yaml"
    problems = problems_of(path)
    printed = [format_problem(problem) for problem in problems]
    assert [problem.line for problem in problems] == [line for line, _ in EXPECTED[name]], "\n".join(printed)
    for problem, text, (_, words) in zip(problems, printed, EXPECTED[name], strict=True):
        assert problem.file == str(path)
        assert problem.what
        assert problem.found
        assert problem.expected
        assert problem.suggestion or problem.next_step.startswith("orchestrator ")
        assert problem.next_step
        assert "Traceback" not in text
        assert "pydantic" not in text
        for word in words:
            assert word in text, text


def test_a_table_file_answers_within_a_second():
    """A hostile file must not hold the command up."""
    for path in sorted(BAD.glob("*.yaml")):
        start = time.process_time()
        problems_of(path)
        assert time.process_time() - start < 1.0, path.name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * (5 * 2**20), "at most 4 MiB"),
        ("- a\n" * (5 * 2**18), "too large"),
        ("[" * (3 * 2**20), "nested too deep"),
        ("- a\n" * 2**20, "too many values"),
        ('"' + "x" * (3 * 2**20), "close the quote"),
        ("a: " * 2**20, "mapping values are not allowed"),
        ("{" * 30 + "a: {}, " * 300_000, "not text"),
        ("{" + ", ".join(f"k{i}: 1" for i in range(300_000)), "too many values"),
        ("&a " * 100_000, "cannot be read"),
        ("- " * 100_000, "nested too deep"),
        ("? " * 100_000, "nested too deep"),
        ("9" * (3 * 2**20), "number is too large"),
        ("timeout: " + "1" * (3 * 2**20), "too large"),
    ],
)
def test_megabytes_of_garbage_are_refused_in_seconds(text, words):
    start = time.process_time()
    with pytest.raises(WorkflowError) as raised:
        check_workflow(load_text(text, file="big.yaml"))
    assert time.process_time() - start < 20
    assert any(words in format_problem(problem) for problem in raised.value.problems)
    assert max(len(format_problem(problem)) for problem in raised.value.problems) < 4000


def test_a_long_duration_text_is_refused_at_once():
    """A pattern that backtracks would take hours here."""
    text = "version: 1\nname: x\nnodes:\n  a: {stage: probe.echo, timeout: '" + "1" * 2**20 + "'}\n"
    start = time.process_time()
    with pytest.raises(WorkflowError, match="1 problem"):
        check_workflow(load_text(text, file="x"))
    assert time.process_time() - start < 2


def test_thousands_of_unknown_references_are_told_in_seconds():
    nodes = "".join(f"  node{i}: {{stage: probe.echo, inputs: {{inputs: nod{i}}}}}\n" for i in range(3000))
    start = time.process_time()
    with pytest.raises(WorkflowError) as raised:
        check_workflow(load_text(f"version: 1\nname: x\nnodes:\n{nodes}", file="x"))
    assert time.process_time() - start < 20
    assert len(raised.value.problems) == 3000


class TestFilesThatCannotBeRead:
    def refused(self, path: Path) -> str:
        with pytest.raises(UsageError) as raised:
            load_workflow(path)
        assert isinstance(raised.value, WorkflowError)
        return format_problem(raised.value.problems[0])

    def test_a_missing_file_names_those_nearby(self, tmp_path):
        (tmp_path / "vit_compress.yaml").write_text("version: 1")
        text = self.refused(tmp_path / "vit_compres.yaml")
        assert "does not exist" in text
        assert f"did you mean {tmp_path / 'vit_compress.yaml'}?" in text

    def test_a_missing_folder_is_told(self, tmp_path):
        assert "does not exist" in self.refused(tmp_path / "none" / "x.yaml")

    def test_a_folder_names_the_files_in_it(self, tmp_path):
        (tmp_path / "a.yaml").write_text("version: 1")
        text = self.refused(tmp_path)
        assert "is a folder" in text
        assert "a.yaml" in text

    def test_a_device_is_not_read(self):
        assert "not a plain file" in self.refused(Path("/dev/zero"))

    def test_a_name_that_cannot_exist_is_told(self):
        assert "cannot be read" in self.refused(Path("a\0b.yaml"))
        assert "cannot be read" in self.refused(Path("x" * 5000))

    def test_a_file_below_a_file_is_told(self, tmp_path):
        (tmp_path / "a.yaml").write_text("version: 1")
        assert "cannot be read" in self.refused(tmp_path / "a.yaml" / "b.yaml")

    def test_a_file_of_five_megabytes_is_not_read_whole(self, tmp_path):
        (tmp_path / "big.yaml").write_bytes(b"x" * (5 * 2**20))
        assert "at most 4 MiB" in self.refused(tmp_path / "big.yaml")
