"""The safety checks that ``make mutation`` breaks, and the tests that have to notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """One check of the source and how it is broken.

    Attributes:
        what: The check, in words.
        file: Where it is, below src/fashion_tl.
        text: Its exact text, which occurs there once.
        broken: What takes its place.
        tests: Arguments of pytest; the tests that have to fail.
    """

    what: str
    file: str
    text: str
    broken: str
    tests: tuple[str, ...]


MUTATIONS = (
    # Data
    Mutation(
        "what is held out does not train",
        "data/splits.py",
        "stay.append(members[count:])",
        "stay.append(members)",
        ("tests/data/test_splits.py",),
    ),
    Mutation(
        "a label budget's validation images do not train",
        "data/splits.py",
        "train.append(members[~validates])",
        "train.append(members)",
        ("tests/data/test_datamodule.py",),
    ),
    Mutation(
        "test images that are split off do not train",
        "data/splits.py",
        "return indices[kept], indices[held]",
        "return kept, held",
        ("tests/data/test_datamodule.py",),
    ),
    Mutation(
        "a class with too few images is refused",
        "data/datamodule.py",
        "            if lost:\n",
        "            if lost and not splits:\n",
        ("tests/data/test_image_folder.py",),
    ),
    Mutation(
        "no group is divided between splits that a table gives",
        "data/csv_table.py",
        "if len(found) > 1]:",
        "if len(found) > 3]:",
        ("tests/data/test_csv_table.py", "-k", "torn"),
    ),
    Mutation(
        "no group is divided between splits that are drawn",
        "data/splits.py",
        "        if groups is None:\n",
        "        if groups is None or len(groups):\n",
        ("tests/data/test_own_validation.py", "-k", "no_group"),
    ),
    Mutation(
        "cached features of a source's validation images are not those of its training images",
        "data/datamodule.py",
        '"val": decoded if self.loaded.val is None else f"{decoded} val",',
        '"val": decoded,',
        ("tests/data/test_own_validation.py", "-k", "cached_features"),
    ),
    Mutation(
        "a share to validate on is refused where the source has validation images",
        "data/datamodule.py",
        "if self.loaded.val is not None and self._val_fraction_given:",
        "if self.loaded.val is None and self._val_fraction_given and not self.splits:",
        ("tests/data/test_own_validation.py", "-k", "share_to_split"),
    ),
    Mutation(
        "checksums of Fashion-MNIST's files",
        "data/idx.py",
        "if sha256 is not None and hashlib",
        "if sha256 is None and hashlib",
        ("tests/data/test_fashion_mnist.py",),
    ),
    Mutation(
        "a download is checked before it gets its name",
        "data/download.py",
        "                    check(draft)\n",
        "",
        ("tests/data/test_download.py",),
    ),
    Mutation(
        "a pipe named as an image is not opened",
        "data/files.py",
        "if not stat.S_ISREG(path.stat().st_mode):",
        "if not path.exists():",
        ("tests/data/test_image_folder.py",),
    ),
    Mutation(
        "pretrained weights are those of the hub",
        "models/backbones.py",
        "and sha256(kept) != kept.name:",
        "and not kept.exists():",
        ("tests/models/test_backbones.py", "-k", "not_those_of_the_hub"),
    ),
    # Freezing and the optimizer
    Mutation(
        "frozen parameters take no gradient",
        "models/staged.py",
        "parameter.requires_grad_(name in trained)",
        "parameter.requires_grad_(True)",
        ("tests/models/test_staged.py",),
    ),
    Mutation(
        "frozen BatchNorm stays in eval mode",
        "models/staged.py",
        "            module.training = False\n",
        "            pass\n",
        ("tests/models/test_staged.py",),
    ),
    Mutation(
        "the policy of BatchNorm in trained stages",
        "models/staged.py",
        'isinstance(module, _BatchNorm) and batch_norm != "train")',
        'isinstance(module, _BatchNorm) and batch_norm == "eval")',
        ("tests/models/test_staged.py",),
    ),
    Mutation(
        "what is not selected above the boundary stays in eval mode",
        "models/staged.py",
        "            if around not in training or alone:\n",
        "            if around is None:\n",
        ("tests/models/test_selection.py",),
    ),
    Mutation(
        "a group of which nothing trains has rate 0",
        "training/optimizer.py",
        "return [rate if moves else 0.0 for",
        "return [rate if moves is not None else 0.0 for",
        ("tests/training/test_optimizer.py",),
    ),
    Mutation(
        "the best weights of a phase come back before the next",
        "training/freezing.py",
        "            self._best.restore(module.network)\n",
        "            self._best = BestWeights()\n",
        ("tests/test_phases.py", "-k", "best_weights"),
    ),
    Mutation(
        "a phase ends by losses of epochs that are done",
        "training/plan.py",
        "if epoch < int(progress.epochs)}",
        "if epoch >= 0}",
        ("tests/training/test_plan.py",),
    ),
    Mutation(
        "statistics that another callback has reset are put back",
        "training/freezing.py",
        "                buffer.copy_(self._buffers[name])\n",
        "                pass\n",
        ("tests/test_foreign.py", "-k", "averaging"),
    ),
    Mutation(
        "parameter groups hold every parameter",
        "training/optimizer.py",
        '        group["params"].append(parameter)\n',
        '        group["params"] += [parameter] if parameter.requires_grad else []\n',
        ("tests/training/test_optimizer.py",),
    ),
    Mutation(
        "every batch draws random numbers of its own",
        "seeds.py",
        "seed, rank, epoch, batch))",
        "seed, rank, epoch, 0))",
        ("tests/training/test_freezing.py",),
    ),
    # Divergence
    Mutation(
        "weights that are not finite end the epoch",
        "training/divergence.py",
        "if _broken(trainer, [weight for weight in pl_module.parameters() if weight.requires_grad]):",
        "if _broken(trainer, []):",
        ("tests/training/test_divergence.py",),
    ),
    Mutation(
        "weights that are not finite are not kept",
        "training/divergence.py",
        'if trainer.state.fn == "fit" and _broken(trainer, list(pl_module.parameters())):',
        'if trainer.state.fn == "test" and _broken(trainer, list(pl_module.parameters())):',
        ("tests/training/test_divergence.py",),
    ),
    # Going on
    Mutation(
        "a checkpoint of another plan, seed or data is refused",
        "training/freezing.py",
        "    if told:\n",
        "    if told and inside is None:\n",
        ("tests/test_resume.py", "-k", "another"),
    ),
    Mutation(
        "a checkpoint between two optimizer steps is refused",
        "training/freezing.py",
        'if inside and saved["batch"] % saved["accumulate"] and',
        'if False and saved["batch"] % saved["accumulate"] and',
        ("tests/test_resume.py", "-k", "between_two"),
    ),
    Mutation(
        "phases that have run must be the same",
        "training/plan.py",
        "    if begun[0] != begun[1]:\n",
        "    if len(begun[0]) > len(begun[1]):\n",
        ("tests/training/test_plan.py",),
    ),
    Mutation(
        "a checkpoint of another network is refused",
        "runs/resume.py",
        "        if shapes[0] != shapes[1]:\n",
        "        if not shapes:\n",
        ("tests/test_fit.py", "-k", "another_network"),
    ),
    Mutation(
        "a version is taken by one process",
        "files.py",
        "        lock.acquire()\n",
        "        pass\n",
        ("tests/records/test_record.py", "tests/test_resume.py", "-k", "taken or live"),
    ),
    Mutation(
        "a run of several is one process's",
        "runs/jobs.py",
        "if mine and jobs.is_left(job)",
        "if jobs.is_left(job)",
        ("tests/runs/test_jobs.py",),
    ),
    Mutation(
        "a worker that is killed is started again",
        "runs/workers.py",
        "        self.start(place)\n\n    def end",
        "\n    def end",
        ("tests/runs/test_workers.py", "-k", "killed"),
    ),
    Mutation(
        "a chosen trial is tested as it is",
        "tournament/engine.py",
        "seeds[0] = replace(seeds[0], name=own.name)",
        "pass",
        ("tests/tournament/test_tournament.py", "-k", "from_its_plan"),
    ),
    # Studies of hyperparameters
    Mutation(
        "a run that another process has made meanwhile is not made again",
        "runs/jobs.py",
        "if mine and jobs.is_left(job)",
        "if mine",
        ("tests/runs/test_jobs.py",),
    ),
    Mutation(
        "other seeds of a name are not in the way of one",
        "runs/resume.py",
        "if any(not _within(key, varied) for key in changed)",
        "if changed",
        ("tests/runs/test_search.py", "-k", "in_the_way"),
    ),
    Mutation(
        "machines make no more trials than were asked for",
        "tuning/trials.py",
        "if self.place(trial) >= self.tuning.trials:",
        "if self.place(trial) > self.tuning.trials:",
        ("tests/tuning/test_trials.py", "-k", "as_many"),
    ),
    Mutation(
        "a study of another space is refused",
        "tuning/plan.py",
        "        if before_text.get(key) != now_text.get(key)\n",
        "        if key not in before_text\n",
        ("tests/tuning/test_trials.py", "-k", "not_ours"),
    ),
    Mutation(
        "a pruned run is no whole run",
        "callbacks/recorder.py",
        "PRUNED if self.pruned else COMPLETED",
        "COMPLETED",
        ("tests/tuning/test_tune.py", "-k", "pruned"),
    ),
    # Many files
    Mutation(
        "a file of another time is read again",
        "data/file_index.py",
        ' & (kept["times"][there] == files.times[here])',
        "",
        ("tests/data/test_file_index.py", "-k", "changed"),
    ),
    Mutation(
        "a file that was just written is read again",
        "data/file_index.py",
        "np.where(settled, files.sizes, UNKNOWN)",
        "files.sizes",
        ("tests/data/test_file_index.py", "-k", "just_written"),
    ),
    Mutation(
        "a header does not stand for a whole file",
        "data/file_index.py",
        "needed = DECODED if whole else OPENED",
        "needed = OPENED",
        ("tests/data/test_file_index.py", "-k", "decoded_once"),
    ),
    Mutation(
        "decoded images are those of the contents",
        "data/decoded.py",
        "hashlib.sha256(np.ascontiguousarray(digests).data).hexdigest()",
        '"contents"',
        ("tests/data/test_file_index.py", "-k", "another_picture"),
    ),
    # The cache
    Mutation(
        "values of a cache entry are verified",
        "cache/store.py",
        "if version not in _verified and _crc(file) != crc:",
        "if version not in _verified and False:",
        ("tests/cache/test_store.py",),
    ),
    Mutation(
        "the description of a cache entry is verified",
        "cache/store.py",
        'if meta["sha256"] != _digest(meta):',
        'if meta["sha256"] is None:',
        ("tests/cache/test_store.py",),
    ),
    Mutation(
        "an entry with rows missing does not appear",
        "cache/store.py",
        "if file.tell() != _file_size(*arrays[name]):",
        "if file.tell() > _file_size(*arrays[name]):",
        ("tests/cache/test_store.py",),
    ),
    Mutation(
        "nothing but entries is removed from the cache's folder",
        "cache/store.py",
        "    return all(f.is_file() and not f.is_symlink()",
        "    return True or all(f.is_file() and not f.is_symlink()",
        ("tests/cache/test_store.py",),
    ),
    Mutation(
        "the key of features depends on the weights",
        "features/keys.py",
        "        return _contents(value)\n",
        "        return str(value.shape)\n",
        ("tests/test_foreign.py", "-k", "keys_tell"),
    ),
    Mutation(
        "the key of features depends on the samples",
        "features/extraction.py",
        '            "samples": split.identity,\n',
        "",
        ("tests/test_cache.py", "-k", "whatever_features"),
    ),
    Mutation(
        "random augmentation is never cached",
        "features/validity.py",
        "    if views is None:\n",
        "    if views is None and not hasattr(data, 'augment'):\n",
        ("tests/test_foreign.py", "tests/test_cache.py", "-k", "never_skipped or where_it_is_not_valid"),
    ),
    # Files
    Mutation(
        "checksums of checkpoints",
        "training/checkpoints.py",
        'if b"%0*x" % (_DIGITS, found) != tail[len(_MARK) :]:',
        "if not found and not tail:",
        ("tests/training/test_checkpoint_files.py", "-k", "flipped"),
    ),
    Mutation(
        "checksums of records",
        "files.py",
        "not in (None, _sha256_of(content)):",
        "not in (None, expected):",
        ("tests/test_files.py",),
    ),
    Mutation(
        "checksums of the files that a record names",
        "records/record.py",
        "if expected not in (None, sha256(folder / name)):",
        "if expected == name:",
        ("tests/test_damage.py",),
    ),
    Mutation(
        "a file reaches the disk before its name does",
        "files.py",
        "            os.fsync(file.fileno())\n",
        "",
        ("tests/test_files.py",),
    ),
    Mutation(
        "data and objective of a run that goes on are the same",
        "training/freezing.py",
        '"data": dict(getattr(data, "identity", {})),',
        '"data": {},',
        ("tests/runs/test_going_on.py", "-k", "other_data"),
    ),
    Mutation(
        "a teacher tells the same classes",
        "training/objectives/distillation.py",
        "if teacher.class_names != module.class_names:",
        "if not teacher.class_names:",
        ("tests/training/objectives/test_terms.py", "-k", "other_classes"),
    ),
    Mutation(
        "mixed images are not cached",
        "data/datamodule.py",
        "        if self.mix is not None:\n            return None\n",
        "",
        ("tests/data/test_mixing.py", "-k", "no_fixed_views or have_no"),
    ),
    Mutation(
        "what a configuration imports is what the field expects",
        "imports.py",
        "if not (isinstance(found, type) and issubclass(found, base)):",
        "if found is None:",
        ("tests/test_hostile.py", "-k", "class_of_a_checkpoint or source_of_a_record"),
    ),
    Mutation(
        "numbers that are not finite are refused",
        "runs/ranges.py",
        "if isinstance(value, int | float) and not abs(value) <= LARGEST:",
        "if isinstance(value, int | float) and abs(value) is None:",
        ("tests/runs/test_bad_input.py", "-k", "test_a_flag and nan"),
    ),
    Mutation(
        "numbers out of their ranges are refused",
        "runs/ranges.py",
        "problems = out_of_range({key: (value, *RANGES[key]) for key, value in given.items()})",
        "problems = out_of_range({})",
        ("tests/runs/test_bad_input.py", "-k", "test_a_flag and trainer"),
    ),
    # What is read and shown
    Mutation(
        "checkpoints hold plain values alone",
        "training/checkpoints.py",
        "weights_only=True",
        "weights_only=False",
        ("tests/test_hostile.py", "-k", "checkpoints_run"),
    ),
    Mutation(
        "the report escapes every text",
        "report/page.py",
        "autoescape=True",
        "autoescape=False",
        ("tests/test_hostile.py", "-k", "html"),
    ),
    Mutation(
        "pictures of an analysis lie beside it",
        "report/analyses.py",
        "if Path(name).name != name:",
        "if not name:",
        ("tests/test_hostile.py", "-k", "pictures"),
    ),
    Mutation(
        "names of runs stay in their folder",
        "records/record.py",
        'if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}", name):',
        "if not name:",
        ("tests/records/test_record.py",),
    ),
    Mutation(
        "logits that are not finite are no predictions",
        "records/predictions.py",
        "elif broken := int((~np.isfinite(logits)).any(axis=1).sum()):",
        "elif broken := 0:",
        ("tests/report/test_run_files.py",),
    ),
    Mutation(
        "a calibration is of its checkpoint",
        "inspection/calibration.py",
        "if found.checkpoint != digest(checkpoint):",
        "if not found.checkpoint:",
        ("tests/inspection/test_calibration.py",),
    ),
    Mutation(
        "the checkpoint that validation chose is tested",
        "runs/fit.py",
        "trainer.test(model, datamodule=data, ckpt_path=str(paths.best)",
        "trainer.test(model, datamodule=data, ckpt_path=str(paths.last)",
        ("tests/test_fit.py", "-k", "chose_is_tested"),
    ),
    Mutation(
        "predict replaces nothing but an earlier table",
        "inspection/predict.py",
        "    if not former:\n",
        "    if former is None:\n",
        ("tests/test_tools.py", "-k", "output"),
    ),
    Mutation(
        "runs are combined on the same test images alone",
        "combine/members.py",
        "        if mine != theirs:\n",
        "        if mine is None:\n",
        ("tests/combine/test_ensemble.py", "-k", "refused and test"),
    ),
    Mutation(
        "nothing is chosen on images that a stack was fitted to",
        "combine/members.py",
        "return bool(member.record.get(FITTED))",
        "return False",
        ("tests/combine/test_ensemble.py", "-k", "fitted_to"),
    ),
    Mutation(
        "a soup is never worse on validation",
        "combine/soup.py",
        "found.accuracy >= best.accuracy",
        "found.accuracy >= 0",
        ("tests/combine/test_ensemble.py", "-k", "left_out"),
    ),
    Mutation(
        "compare replaces nothing but an earlier report",
        "report/compare.py",
        "    if foreign:\n",
        "    if foreign is None:\n",
        ("tests/report/test_compare.py",),
    ),
    Mutation(
        "verify compares frozen weights with those that the run started from",
        "inspection/verify_weights.py",
        "changed = [name for name, value in frozen.items() if not _equal(value, state[name])]",
        "changed: list[str] = []",
        ("tests/inspection/test_verify.py", "-k", "frozen"),
    ),
    Mutation(
        "verify compares recorded logits with those of the checkpoint",
        "inspection/verify_run.py",
        "worst = np.flatnonzero(~(gap <= tolerance))",
        "worst = np.flatnonzero(gap < 0)",
        ("tests/inspection/test_verify.py", "-k", "a_prediction"),
    ),
    Mutation(
        "an audit scores runs without the test images that have a duplicate in train or validation",
        "inspection/audit_analysis.py",
        "_score(correct[~inside])",
        "_score(correct)",
        ("tests/inspection/test_audit.py", "-k", "scored"),
    ),
    # Export
    Mutation(
        "an ONNX file whose logits differ is refused",
        "export/onnx_file.py",
        "if not difference <= TOLERANCE:",
        "if difference < 0:",
        ("tests/export/test_export.py", "-k", "finite"),
    ),
    Mutation(
        "what an export compares on is not downloaded",
        "export/subject.py",
        "if not data_of(subject.paths, root).source.is_at_hand():",
        "if False:",
        ("tests/export/test_export.py", "-k", "at_hand"),
    ),
    # The command line
    Mutation(
        "a new experiment does not overwrite a file",
        "new.py",
        "if file.exists():",
        "if False:",
        ("tests/test_new.py",),
    ),
    Mutation(
        "a new experiment's name is text in YAML",
        "new.py",
        "if yaml.safe_load(name) == name and name[0].isalpha()",
        "if yaml.safe_load(name) == name",
        ("tests/test_new.py",),
    ),
    Mutation(
        "completion knows the arguments of a classifier's bases",
        "completion.py",
        "if not kwargs:",
        "if True:",
        ("tests/test_completion.py",),
    ),
)
