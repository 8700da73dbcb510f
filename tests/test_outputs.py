"""An output is the old one or the new one, whatever happens to the process, the disk or the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphclone import graph, saving
from graphclone.errors import BadModel, InvalidTarget
from graphclone.outputs import refuse_same_file, refuse_unwritable, staged
from tests.tiny_models import WEIGHT, tiny

KILLED = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from graphclone import graph, saving
from tests.tiny_models import WEIGHT, tiny

path, above = Path(sys.argv[1]), int(sys.argv[2])
saving.EXTERNAL_ABOVE = above

def save(version):
    model = graph.from_proto(tiny(WEIGHT * 0 + version))
    model.metadata["version"] = str(version)
    saving.save(model, path)

def killed_at(moment, version):
    '''Save in a process that is killed by the system when it opens, renames or removes its n-th file.'''
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    left = [moment]
    def watch(event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and str(path.parent) in str(arguments):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    save(version)
    os._exit(0)

save(0)
seen = []
for moment in range(1, 100):
    before = graph.load(path).metadata["version"]
    code = killed_at(moment, moment)
    found = graph.load(path)
    weights = {float(w) for w in np.unique(found.constants()["w"])}
    version = found.metadata["version"]
    seen.append([code, {before: "old", str(moment): "new"}.get(version, version), weights == {float(version)}])
    if code == 0:
        break
save(1000)
print(json.dumps({"seen": seen, "left": sorted(p.name for p in path.parent.iterdir())}))
"""


@pytest.mark.parametrize(("above", "files"), [(0, 2), (1 << 30, 1)])
def test_killed_at_any_moment(tmp_path, above, files):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "model.onnx"), str(above)],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout)
    codes, states, whole = zip(*told["seen"], strict=True)
    assert len(codes) >= 6
    assert set(codes[:-1]) == {-9}
    assert codes[-1] == 0
    assert all(whole), "old and new weights met"
    assert set(states) == {"old", "new"}
    assert states[0] == "old"
    assert len(told["left"]) == files, "what the killed processes left was not removed"


SAVING = """
import sys
from pathlib import Path
from graphclone import graph, saving
from tests.tiny_models import WEIGHT, tiny
saving.EXTERNAL_ABOVE = 0
for number in range(12):
    model = graph.from_proto(tiny(WEIGHT * 0 + int(sys.argv[2]) + number))
    model.metadata["version"] = str(int(sys.argv[2]) + number)
    saving.save(model, Path(sys.argv[1]))
"""


def test_two_processes_that_write_the_same_file(tmp_path):
    path, root = tmp_path / "model.onnx", Path(__file__).parent.parent
    first = [subprocess.Popen([sys.executable, "-c", SAVING, str(path), str(k * 100)], cwd=root) for k in range(2)]
    assert [process.wait(60) for process in first] == [0, 0]
    found = graph.load(path)
    assert (found.constants()["w"] == float(found.metadata["version"])).all()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_temporary_folder_of_a_living_process_is_left_alone(tmp_path):
    with staged(tmp_path / "out.json") as draft:
        draft.write_text("first")
        with staged(tmp_path / "out.json") as other:
            other.write_text("second")
        assert draft.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    assert (tmp_path / "out.json").read_text() == "first"


def limited(body, folder):
    """Run ``body`` in a process whose files may not grow beyond 1 MB."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path.cwd())!r})
from graphclone import graph, saving
from graphclone.errors import GraphCloneError
from graphclone.outputs import staged
from graphclone.recipes import Recipe
from tests.tiny_models import WEIGHT, tiny
import numpy as np
model = graph.from_proto(tiny())
model.graph.tensors()["w"].values = Recipe(np.broadcast_to(np.float32(1), (16, 1 << 16)), {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
{body}
except GraphCloneError as reason:
    print(reason)
"""
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
@pytest.mark.parametrize("above", [0, 1 << 30])
def test_a_file_that_cannot_grow_is_a_line_and_leaves_the_old_one(tmp_path, above):
    saving.save(graph.from_proto(tiny()), tmp_path / "model.onnx")
    said = limited(f"    saving.EXTERNAL_ABOVE = {above}\n    saving.save(model, 'model.onnx')", tmp_path)
    assert said == "model.onnx: cannot be written (File too large)\n"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert np.array_equal(graph.load(tmp_path / "model.onnx").constants()["w"], WEIGHT)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_so_it_is_for_whatever_else_is_written(tmp_path):
    said = limited("    with staged('plan.json') as draft:\n        draft.write_text('0' * (2 << 20))", tmp_path)
    assert said == "plan.json: cannot be written (File too large)\n"
    assert list(tmp_path.iterdir()) == []


def write(path, data, after=None):
    with staged(path) as draft:
        draft.write_bytes(data)
        if after is not None:
            after.read_bytes()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("above", [0, 1 << 30])
def test_a_full_disk(small_disk, monkeypatch, above):
    monkeypatch.setattr(saving, "EXTERNAL_ABOVE", above)
    path = small_disk / "model.onnx"
    saving.save(graph.from_proto(tiny()), path)
    before = sorted(p.name for p in small_disk.iterdir())
    large = graph.from_proto(tiny(np.ones((16, 1 << 15), np.float32)))
    with pytest.raises(BadModel, match=r"cannot be written \(2,097,152 bytes of weights, .* are free on the disk\)"):
        saving.save(large, path)
    assert sorted(p.name for p in small_disk.iterdir()) == before
    with pytest.raises(BadModel, match=r"plan\.json: cannot be written \(No space left on device\)"):
        write(small_disk / "plan.json", bytes(2 << 20))
    assert sorted(p.name for p in small_disk.iterdir()) == before
    assert np.array_equal(graph.load(path).constants()["w"], WEIGHT)


def test_a_disk_that_may_only_be_read(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(BadModel, match=r"model\.onnx: cannot be written \(Read-only file system\)"):
        saving.save(graph.from_proto(tiny()), small_disk / "model.onnx")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder that nobody may write to")
def test_a_folder_that_may_not_be_written_to():
    with pytest.raises(BadModel, match=r"/proc/self/model\.onnx: cannot be written \("):
        saving.save(graph.from_proto(tiny()), "/proc/self/model.onnx")


def test_a_folder_in_the_place_of_the_output(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(BadModel, match=r"model\.onnx: a folder, not a file to write"):
        saving.save(graph.from_proto(tiny()), tmp_path / "model.onnx")


def test_a_place_for_a_file_is_tried_before_a_long_run(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadModel, match=r"folder: a folder, not a file to write"):
        refuse_unwritable(tmp_path / "folder")
    with pytest.raises(BadModel, match="no such folder to write x into"):
        refuse_unwritable(tmp_path / "none" / "x")
    (tmp_path / "x").write_text("old")
    refuse_unwritable(None, tmp_path / "x", tmp_path / "y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x"]


def test_an_error_in_the_block_is_not_called_an_error_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match="input"):
        write(tmp_path / "out", b"half", tmp_path / "input")
    assert list(tmp_path.iterdir()) == []


def test_an_output_never_takes_the_place_of_an_input(tmp_path):
    (tmp_path / "a.onnx").write_text("a")
    (tmp_path / "link.onnx").symlink_to("a.onnx")
    refuse_same_file(tmp_path / "b.onnx", tmp_path / "a.onnx", None)
    for other in ("a.onnx", "link.onnx", "../" + tmp_path.name + "/a.onnx"):
        with pytest.raises(InvalidTarget, match="is also an input; write to another path"):
            refuse_same_file(tmp_path / other, tmp_path / "a.onnx")


def test_nor_of_the_model_of_a_folder(tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_text("a")
    with pytest.raises(InvalidTarget, match="is also an input"):
        refuse_same_file(tmp_path / "onnx" / "model.onnx", tmp_path)
    refuse_same_file(tmp_path / "onnx" / "smaller.onnx", tmp_path)
    (tmp_path / "texts").mkdir()
    refuse_same_file(tmp_path / "texts" / "stats.safetensors", tmp_path / "texts")


def test_nor_of_the_source_of_a_function(tmp_path):
    with pytest.raises(InvalidTarget, match="is also an input"):
        refuse_same_file(tmp_path / "own.py", f"{tmp_path}/own.py:batches")
    refuse_same_file(tmp_path / "own.py", f"{tmp_path}/other.py:own", "module:own.py")


def test_where_nothing_is_written_the_current_folder_is_no_output():
    refuse_same_file(None, ".")
