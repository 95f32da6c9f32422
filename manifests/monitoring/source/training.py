"""The dashboard of stages at work."""

from __future__ import annotations

from manifests.monitoring.source.plots import LIVE, RL, Board, Plot, mean, rate

TRAINING = Board(
    "pelican-training",
    "Pelican: stages at work",
    {
        "Is it moving?": (
            Plot(
                "Since the last step",
                "s",
                {"{{stage}} {{pod}}": f"time() - pelican_last_step_timestamp_seconds{LIVE}"},
                text="Rises while a stage is stuck.",
            ),
            Plot(
                "Done",
                "percentunit",
                {
                    "{{stage}} {{phase}}": (
                        f"sum by (stage, phase) (pelican_progress_done_items{LIVE})"
                        f" / sum by (stage, phase) (pelican_progress_expected_items{LIVE})"
                    )
                },
            ),
            Plot(
                "Tokens a second",
                "short",
                {
                    "generated, {{stage}}": rate("pelican_tokens_generated_total", "stage"),
                    "trained, {{stage}}": rate("pelican_tokens_trained_total", "stage"),
                },
            ),
            Plot(
                "Where the time goes",
                "percentunit",
                {"{{stage}} {{part}}": rate("pelican_stage_time_seconds_total", "stage, part")},
                text="Seconds a second, all ranks added up: data, generate, wait.",
            ),
            Plot(
                "Optimiser step",
                "s",
                {"{{stage}}": mean("pelican_training_step_duration_seconds", "stage", LIVE)},
            ),
            Plot(
                "Steps a minute",
                "short",
                {"{{stage}}": f"60 * {rate('pelican_training_steps_total', 'stage')}"},
            ),
        ),
        "What RL sees": (
            Plot(
                "Reward by component",
                "percentunit",
                {"{{component}}": mean("pelican_reward_ratio", "component", RL)},
                text="format is the format rate.",
            ),
            Plot(
                "Reward by family",
                "percentunit",
                {
                    "{{family}}": mean(
                        "pelican_reward_ratio",
                        "family",
                        RL.replace("}", ', component="total"}'),
                    )
                },
            ),
            Plot(
                "Rollouts by outcome, a second",
                "short",
                {"{{outcome}}": rate("pelican_rollouts_total", "outcome", RL)},
            ),
            Plot(
                "Success rate of a group",
                "percentunit",
                {
                    f"{percent} %": (
                        f"histogram_quantile({percent / 100}, "
                        f"{rate('pelican_success_ratio_bucket', 'le', RL)})"
                    )
                    for percent in (25, 50, 75)
                },
            ),
            Plot(
                "Groups with and without variance, a second",
                "short",
                {"{{variance}}": rate("pelican_groups_total", "variance", RL)},
            ),
            Plot(
                "Groups trained on, with and without variance, a second",
                "short",
                {"{{variance}}": rate("pelican_groups_trained_total", "variance", RL)},
            ),
            Plot(
                "Deviation of rewards within a group",
                "short",
                {"mean": mean("pelican_group_reward_deviation_ratio", "stage", RL)},
            ),
            Plot(
                "Thinking, characters",
                "short",
                {"mean": mean("pelican_think_characters", "stage", RL)},
            ),
            Plot(
                "Stagnation",
                "percentunit",
                {
                    "{{family}}": f"max by (family) (pelican_stagnation_ratio{RL})",
                    "mean": f"max(pelican_stagnation_mean_ratio{RL})",
                },
                text="RL ends where the mean meets the recipe's threshold.",
            ),
        ),
        "Optimiser": (
            Plot("Loss", "short", {"{{stage}}": f"pelican_training_loss{LIVE}"}),
            Plot("Gradient norm", "short", {"{{stage}}": f"pelican_training_gradient_norm{LIVE}"}),
            Plot("Learning rate", "sci", {"{{stage}}": f"pelican_training_learning_rate{LIVE}"}),
            Plot("KL from the start", "short", {"nats": f"pelican_training_kl_nats{RL}"}),
            Plot("Clipped", "percentunit", {"tokens": f"pelican_training_clip_ratio{RL}"}),
            Plot("Entropy", "short", {"{{stage}}": f"pelican_training_entropy_nats{LIVE}"}),
            Plot(
                "NaN or infinite",
                "short",
                {"{{stage}} {{quantity}}": f"pelican_training_not_finite_total{LIVE}"},
            ),
        ),
        "Machines": (
            Plot(
                "Resident memory",
                "bytes",
                {"{{stage}} {{pod}}": f"pelican_resident_memory_bytes{LIVE}"},
            ),
            Plot(
                "GPU memory",
                "bytes",
                {"{{pod}} {{device}} {{state}}": f"pelican_gpu_memory_bytes{LIVE}"},
                need="gpu",
            ),
            Plot(
                "Store, bytes a second",
                "Bps",
                {"{{direction}}": rate("pelican_store_bytes_total", "direction")},
            ),
            Plot(
                "Store, repeated and failed requests a second",
                "short",
                {
                    "repeated": rate("pelican_store_retries_total", "stage"),
                    "failed": rate("pelican_store_errors_total", "stage"),
                },
                need="store errors",
            ),
            Plot(
                "Completions by their end, a second",
                "short",
                {"{{finish}}": rate("pelican_completions_total", "finish")},
            ),
        ),
    },
)
