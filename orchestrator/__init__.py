"""The platform: grid, plan, scheduler, trainer, ledger, tracking and report. Knows nothing of segmentation."""
