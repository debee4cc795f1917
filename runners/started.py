"""Who has started this process, told without loading torch: what starts a sweep asks it first."""

import os


def num_started() -> int:
    """How many ranks torchrun or srun has started, of which this process is one; else 1."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    # Of the step: in a batch script without srun the job's own count says nothing.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) if "SLURM_PROCID" in os.environ else 1
