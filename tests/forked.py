"""Scripts as processes of their own that need not import torch, which takes longer than what most are tested
for: each is forked from one process that has."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch._dynamo", "torchvision", "matplotlib.figure", "scipy.stats"])


class Forked:
    """What subprocess.Popen is, as far as tests ask for it; leads a process group once it is at work."""

    def __init__(self, script: str, *flags: object, cwd: Path, **environment: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.outputs = [Path(self.folder.name) / name for name in ("stdout", "stderr")]
        for path in self.outputs:  # a process may be killed before it opens them
            path.touch()
        self.args = [str(ROOT / f"{script}.py"), *map(str, flags)]
        environment = {"CUDA_VISIBLE_DEVICES": "", **environment}
        self.process = SERVER.Process(target=_run, args=(self.args, cwd, self.outputs, environment))
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.process.join(timeout)
        assert self.returncode is not None, f"{self.args} has not ended in {timeout} s"
        return tuple(path.read_text() for path in self.outputs)


def _run(arguments: list[str], cwd: Path, outputs: list[Path], environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.update(environment)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
