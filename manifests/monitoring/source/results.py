"""The dashboard of what stages found: policies, data, jobs, and the trigger."""

from __future__ import annotations

from manifests.monitoring.source.plots import END, Board, Plot, last
from manifests.monitoring.source.trigger import TRIGGER

RESULTS = Board(
    "pelican-results",
    "Pelican: policies and jobs",
    {
        "Held-out": (
            Plot(
                "Score",
                "percentunit",
                {"{{suite}}": last("pelican_evaluation_score_ratio", "suite")},
                "number",
            ),
            Plot(
                "Score after each phase",
                "percentunit",
                {"{{suite}}, {{phase}}": last("pelican_evaluation_score_ratio", "suite, phase")},
            ),
            Plot("Loop", "short", {"loop": "max(pelican_loop" + END + ")"}, "number"),
            Plot(
                "By family",
                "percentunit",
                {"{{family}}": last("pelican_evaluation_family_score_ratio", "family")},
            ),
            Plot(
                "By dimension",
                "percentunit",
                {"{{dimension}}": last("pelican_evaluation_dimension_score_ratio", "dimension")},
            ),
            Plot(
                "Change",
                "percentunit",
                {
                    "{{suite}} to {{against}}": last(
                        "pelican_evaluation_change_ratio", "suite, against"
                    ),
                    "{{suite}} to {{against}}, upper end": last(
                        "pelican_evaluation_change_high_ratio", "suite, against"
                    ),
                    "allowed loss, {{check}}": last("pelican_gate_limit_ratio", "check"),
                },
            ),
            Plot(
                "Forgotten of what the base knew",
                "percentunit",
                {
                    "{{suite}}, {{phase}}": last(
                        "pelican_evaluation_forgotten_ratio", "suite, phase"
                    )
                },
            ),
            Plot(
                "Format",
                "percentunit",
                {"{{phase}}": last("pelican_evaluation_format_ratio", "phase")},
            ),
            Plot(
                "Thinking, characters",
                "short",
                {"{{phase}}": last("pelican_evaluation_think_characters", "phase")},
            ),
            Plot(
                "Gate",
                "short",
                {
                    "open, {{phase}}": last("pelican_gate_open", "phase"),
                    "{{check}}, {{phase}}": last("pelican_gate_check_passed", "check, phase"),
                },
                text="1: passed; 0: stops the metaloop.",
            ),
        ),
        "Data": (
            Plot(
                "Samples by difficulty",
                "short",
                {"{{set}}, {{phase}}": last("pelican_buffer_samples", "set, phase")},
            ),
            Plot(
                "Success rate of the pool",
                "percentunit",
                {
                    "{{family}}": (
                        'sum by (family) (pelican_success_ratio_sum{job="pelican",'
                        ' namespace=~"$namespace", stage="reward"})'
                        ' / sum by (family) (pelican_success_ratio_count{job="pelican",'
                        ' namespace=~"$namespace", stage="reward"})'
                    )
                },
            ),
            Plot(
                "Quarantined",
                "short",
                {"{{stage}} {{code}}": last("pelican_quarantined_samples", "stage, code")},
            ),
            Plot(
                "Teacher's answers",
                "short",
                {
                    "{{origin}}, accepted: {{accepted}}": last(
                        "pelican_teacher_answers", "origin, accepted"
                    )
                },
            ),
            Plot(
                "Weak samples that the teacher solves",
                "percentunit",
                {"{{family}}": last("pelican_teacher_acceptance_ratio", "family")},
            ),
            Plot("Pools", "short", {"{{pool}}": last("pelican_pool_samples", "pool")}, "number"),
            Plot(
                "Age of a pool",
                "s",
                {
                    "{{pool}}": "time() - "
                    + last("pelican_pool_newest_shard_timestamp_seconds", "pool")
                },
                "number",
            ),
        ),
        "Jobs": (
            Plot(
                "State",
                "short",
                {
                    "{{stage}} {{phase}}: {{state}}": last(
                        "pelican_job_state", "stage, phase, state", ', state!="succeeded"'
                    )
                },
                text="1: in that state.",
            ),
            Plot(
                "In this state for",
                "s",
                {
                    "{{stage}} {{phase}}": "time() - "
                    + last("pelican_job_state_timestamp_seconds", "stage, phase")
                },
            ),
            Plot(
                "Wait for the first work",
                "s",
                {"{{stage}} {{phase}}": last("pelican_job_wait_seconds", "stage, phase")},
            ),
            Plot(
                "Attempts",
                "short",
                {"{{stage}} {{phase}}": last("pelican_job_attempts", "stage, phase")},
            ),
            Plot(
                "Duration",
                "s",
                {"{{stage}} {{phase}}": last("pelican_stage_duration_seconds", "stage, phase")},
            ),
            Plot(
                "Process time",
                "s",
                {
                    "{{stage}} {{accelerator}}": last(
                        "pelican_stage_process_seconds", "stage, accelerator"
                    )
                },
                text="Duration times processes; on GPUs, GPU seconds.",
            ),
            Plot(
                "Since the last success",
                "s",
                {
                    "{{stage}} {{phase}}": "time() - "
                    + last("pelican_stage_last_success_timestamp_seconds", "stage, phase")
                },
            ),
            Plot(
                "Committed",
                "bytes",
                {"{{stage}} {{phase}}": last("pelican_stage_output_bytes", "stage, phase")},
            ),
        ),
        "Trigger": TRIGGER,
    },
)
