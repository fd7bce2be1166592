"""Pipelines: the commands of a whole run, stage by stage, what is complete skipped, what was interrupted resumed.

A stage's commands are those a user would type. Commands of one stage run side by side and share the cores. A stage is
run again when its commands, its recipes or a stage before it have changed; what it had written is then removed first.
"""

from fourm.pipeline.lanes import StageError, arguments
from fourm.pipeline.run import run_pipeline
from fourm.pipeline.schema import Pipeline, Stage, describe, load

__all__ = ["Pipeline", "Stage", "StageError", "arguments", "describe", "load", "run_pipeline"]
