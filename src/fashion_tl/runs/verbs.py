"""The verbs of the command line that train and evaluate."""

from __future__ import annotations

import shlex

from fashion_tl.errors import UserError
from fashion_tl.process import is_first_process, keep_freed_memory, stop_looking_for_gpus
from fashion_tl.runs import checks
from fashion_tl.runs.fit import fit
from fashion_tl.runs.folds import conclude_folds
from fashion_tl.runs.parser import instantiate, make_trainer, parse, quiet
from fashion_tl.runs.refusals import as_user_errors
from fashion_tl.runs.resume import check_network
from fashion_tl.runs.search import repeat, search
from fashion_tl.seeds import seeded


@as_user_errors()
def train(flags: list[str]) -> None:
    """Run ``fit`` with command-line arguments."""
    config = parse("fit", flags)
    if config.seeds == 1 and not config.search and not config.folds:
        fit(flags)
        return
    for flag, why in (("ckpt_path", config.ckpt_path), ("trainer.fast_dev_run", config.trainer.fast_dev_run)):
        if why:
            raise UserError(f"--{flag} is for one run; it cannot go with --search, --seeds or --folds.")
    shared = config.processes
    try:
        found = search(flags, config.search, processes=shared) if config.search else {}
        runs = repeat(flags, config.seeds, found, shared, folds=config.folds)
    except UserError:
        raise
    except BaseException:
        again = [*flags, *(() if config.resume or shared > 1 else ("--resume", "true"))]
        print(f"To go on with what is not done yet: {shlex.join(['fashion-tl', 'fit', *again])}")
        raise
    if config.folds and is_first_process():
        print("\n".join(conclude_folds(runs)))


def validate(flags: list[str]) -> None:
    """Run ``validate`` with command-line arguments."""
    _evaluate("validate", flags)


def test(flags: list[str]) -> None:
    """Run ``test`` with command-line arguments."""
    _evaluate("test", flags)


@as_user_errors()
def _evaluate(verb: str, flags: list[str]) -> None:
    keep_freed_memory()
    stop_looking_for_gpus()
    config = parse(verb, flags)
    with quiet(), seeded(config.seed_everything):
        checkpoint = checks.settle(config)
        if checkpoint is None:
            raise UserError(f"`fashion-tl {verb}` needs the checkpoint to evaluate: --ckpt_path PATH, or best.")
        built = instantiate(verb, checks.to_build(config, checkpoint))
        built.data.prepare_data()
        built.data.setup(verb)
        check_network(checkpoint, built.model)
        trainer = make_trainer(built.trainer, logger=built.trainer.logger or False, enable_checkpointing=None)
        evaluate = trainer.test if verb == "test" else trainer.validate
        evaluate(built.model, datamodule=built.data, ckpt_path=str(checkpoint), weights_only=True)
