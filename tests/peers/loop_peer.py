"""Runs OpenEvolve or ShinkaEvolve with a model without latency and a trivial
evaluator, two evaluations at a time, and prints when its database took each
program in. For bench_loop.py, with the Python that has the engine.

Usage: python loop_peer.py openevolve|shinka CANDIDATES
"""

import asyncio
import itertools
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = "# EVOLVE-BLOCK-START\nX = {}\n# EVOLVE-BLOCK-END\n"


def timed(database):
    """When programs are added to this class of databases."""
    times, add = [], database.add

    def stamped(self, *args, **kwargs):
        added = add(self, *args, **kwargs)
        times.append(time.monotonic())
        return added

    database.add = stamped
    return times


def openevolve(folder, candidates):
    from instant_model import Instant
    from openevolve import OpenEvolve
    from openevolve.config import Config, LLMModelConfig
    from openevolve.database import ProgramDatabase

    times = timed(ProgramDatabase)
    program, evaluator = folder / "program.py", folder / "evaluator.py"
    program.write_text(PROGRAM.format(0))
    evaluator.write_text("import random\ndef evaluate(path):\n    return {'combined_score': random.random()}\n")
    config = Config(max_iterations=candidates, diff_based_evolution=False, checkpoint_interval=10**9, random_seed=1)
    config.llm.models = [LLMModelConfig(name="instant", weight=1.0, init_client=Instant)]
    config.llm.evaluator_models = config.llm.models
    config.evaluator.parallel_evaluations = 2
    config.evaluator.cascade_evaluation = False
    engine = OpenEvolve(str(program), str(evaluator), config=config, output_dir=str(folder / "out"))
    asyncio.run(engine.run(iterations=candidates))
    return times


EVALUATE = """import json, pathlib, random, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
results = pathlib.Path(given["--results_dir"])
results.mkdir(parents=True, exist_ok=True)
(results / "metrics.json").write_text(json.dumps({"combined_score": random.random()}))
(results / "correct.json").write_text(json.dumps({"correct": True, "error": None}))
"""


def shinka(folder, candidates):
    import shinka.llm.llm as llm
    from shinka.core import EvolutionConfig, ShinkaEvolveRunner
    from shinka.database import DatabaseConfig, ProgramDatabase
    from shinka.launch import LocalJobConfig
    from shinka.llm.providers.result import QueryResult

    times, numbers = timed(ProgramDatabase), itertools.count(1)

    async def instant(msg, system_msg, model_name="instant", **_):
        program = PROGRAM.format(next(numbers))
        text = f"<NAME>\nnumber\n</NAME>\n<DESCRIPTION>\nAnother.\n</DESCRIPTION>\n<CODE>\n```python\n{program}```\n</CODE>\n"
        return QueryResult(text, msg, system_msg, [], model_name, {}, 1, 1)

    llm.query_async = instant
    runner = ShinkaEvolveRunner(
        evo_config=EvolutionConfig(
            patch_types=["full"],
            patch_type_probs=[1.0],
            num_generations=candidates,
            llm_models=["local/instant@http://127.0.0.1:9/v1"],
            llm_dynamic_selection=None,
            llm_dynamic_selection_kwargs={},
            meta_rec_interval=None,
            embedding_model=None,
            results_dir=str(folder / "out"),
        ),
        job_config=LocalJobConfig(),
        db_config=DatabaseConfig(db_path="programs.sqlite"),
        verbose=False,
        max_evaluation_jobs=2,
        max_proposal_jobs=2,
        init_program_str=PROGRAM.format(0),
        evaluate_str=EVALUATE,
    )
    runner.run()
    return times


def main():
    engine, candidates = {"openevolve": openevolve, "shinka": shinka}[sys.argv[1]], int(sys.argv[2])
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        times = engine(Path(folder), candidates)
    print(json.dumps(times))


if __name__ == "__main__":
    main()
