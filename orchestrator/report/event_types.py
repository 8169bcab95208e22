"""The types of events that a run's ledger holds, and what each says beside `time`, `type`, and `node` and `key` of a node's."""

from __future__ import annotations

EVENT_TYPES = {
    "job_submitted": "a cluster was asked to run it: `address`, `job`, the name of Ray's job",
    "run_started": "the run has begun",
    "machines_changed": "machines have come or gone: how many `machines` there are, `cpus`, `gpus` in all",
    "dashboard_ready": "Ray's dashboard answers: `url`, `token_file`",
    "nodes_added": "nodes were planned after a sweep settled: `nodes`, rows of label, name, stage, key, status",
    "names_skipped": "nodes that cannot be planned: `why` by name",
    "node_started": "an attempt has begun: `attempt`",
    "node_waiting": "run `holder` is making the artifact; this run waits for it",
    "attempt_failed": "an attempt came to nothing and the node is tried again: `attempt`, `ending`, `error`, `error_type`, "
    "`class` (user_error, timeout, out_of_memory, lost_worker, lost_node, preempted, lease_lost, storage, damaged_input, "
    "cancelled), "
    "`trace`, `host`, `process_id`, `seconds`, `log_tail`, `resumed`, `will_retry`, `delay_s`, `note` (what the next attempt "
    "does otherwise)",
    "node_done": "the artifact is there: `ending` (done, or shared: made by another node or run), `seconds`, `metrics`, "
    "`size_bytes`, `host`, `process_id`, `resumed` (from which step it went on, and where that was saved)",
    "node_failed": "the node has failed for good: as `attempt_failed`",
    "node_skipped": "its condition does not hold, or it needs a skipped node: `why`",
    "node_blocked": "a node that it needs has failed: `by`",
    "attempt_stopped": "an attempt that nobody wanted was stopped; it is wanted again, and begins anew: `attempt`, `seconds`",
    "node_cancelled": "it was stopped; what it had saved is kept; where it ran: `attempt`, `seconds`",
    "sweep_started": "a search has begun: `sweep`, `key`, `trials`, `known` (ended by earlier runs)",
    "trial_started": "a trial has begun: `sweep`, `trial`, `number`, `values`, `parent`",
    "trial_ended": "a trial has ended: `state`, `metrics` of the objectives, `violated` constraints, `error`, `known`",
    "sweep_settled": "a search has ended: `best`, `front`, `verdict`, `spent_s`, `avoided_s`",
    "sweep_failed": "too many trials failed: `error`",
    "sweep_blocked": "what the search needs did not finish: `by`",
    "cancel_asked": "a node or a trial was asked to stop, with what needs it: `name`; the rest of the run goes on",
    "budget_reached": "the budget is spent: what runs may end, nothing more is started; `spent` and `budget` by name",
    "run_stopping": "the run was asked to stop; running stages save and end",
    "run_finished": "the run has ended: `state` (done, failed, cancelled), `seconds`, `error`",
}
