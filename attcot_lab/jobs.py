"""Independent jobs on several processes, with progress and a clean stop."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

import torch
from tqdm.auto import tqdm

Job = TypeVar("Job")


def run_jobs(
    work: Callable[[Job], object],
    jobs: Sequence[Job],
    *,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Run `work` on every job; what it makes, it leaves on disk.

    Args:
        work: A function (or `functools.partial`) that can be pickled if `workers` > 1.
        jobs: What it is called with; ``str(job)`` is shown.
        workers: Processes; with 1 everything happens in this one.
        progress: Show a bar that counts finished jobs.

    Raises:
        Exception: The first error of a job. Jobs that have not started are dropped; those under
            way are finished, so that what they computed is kept.
    """
    bar = tqdm(total=len(jobs), disable=not progress, unit="model")
    with bar:
        if workers == 1:
            for job in jobs:
                bar.set_postfix_str(str(job))
                work(job)
                bar.update()
            return
        threads = max(1, (os.cpu_count() or 1) // workers)
        # A forked process would inherit torch's thread pools in an undefined state.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(threads,)) as pool:
            running = {pool.submit(work, job): job for job in jobs}
            try:
                for done in as_completed(running):
                    done.result()
                    bar.set_postfix_str(str(running[done]))
                    bar.update()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _begin(threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _end_with_parent() -> None:
    # Workers of a main process that was killed would write into what another one resumes.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
