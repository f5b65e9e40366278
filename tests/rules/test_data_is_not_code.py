"""Nothing that comes from storage can run: no unpickling, no eval, no code from a model's directory."""

from __future__ import annotations

import ast

import pytest

from tests.rules.sources import Source, sources

PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNNERS = {"eval", "exec", "compile", "__import__"}
READERS = {"torch.load", "torch.jit.load", "pd.read_pickle", "pandas.read_pickle", "runpy.run_path"}
YAML_READERS = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
# a shard on its way from the driver to a worker, in memory
ALLOWED = {("pipeline/corpus/stream.py", "pickle"), ("pipeline/corpus/stream.py", "pickle.loads")}


def findings(source: Source) -> set[tuple[str, str]]:
    """(path, what) for everything in a file that could turn data into code."""
    found: set[str] = set()
    for node in ast.walk(source.tree):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names if alias.name.split(".")[0] in PICKLERS}
            case ast.ImportFrom(module=str(module)):
                names = {f"{module}.{alias.name}" for alias in node.names}
                found |= {name for name in names if module.split(".")[0] in PICKLERS or name in READERS}
            case ast.Call():
                found |= _of_call(ast.unparse(node.func), node)
    return {(source.path, what) for what in found}


def _of_call(name: str, call: ast.Call) -> set[str]:
    root, _, leaf = name.rpartition(".")
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    found = {
        f"{key}={keywords[key]}" for key in ("allow_pickle", "trust_remote_code") if keywords.get(key, "") == "True"
    }
    if root in PICKLERS and leaf in ("load", "loads", "Unpickler", "open"):
        found.add(name)
    if name in READERS | YAML_READERS or (not root and leaf in RUNNERS):
        found.add(name)
    if leaf == "from_pretrained" and keywords.get("trust_remote_code") != "False":
        found.add(f"{name} without trust_remote_code=False")
    return found


def test_nothing_read_from_storage_is_unpickled_or_run() -> None:
    files = sources("pipeline", "jobs")
    assert len(files) > 100
    assert set().union(*map(findings, files)) - ALLOWED == set()


def test_the_one_pickle_is_the_driver_s_own_block() -> None:
    (source,) = [source for source in sources("pipeline") if source.path == "pipeline/corpus/stream.py"]
    assert findings(source) == ALLOWED
    assert source.text.count("pickle.loads") == 1


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle",
        "torch.load(path)",
        "from torch import load",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "eval(text)",
        "AutoModel.from_pretrained(source)",
        "AutoModel.from_pretrained(source, trust_remote_code=True)",
    ],
)
def test_the_rule_sees_what_it_forbids(code: str) -> None:
    assert findings(Source("x.py", code, ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["np.load(path)", "yaml.safe_load(text)", "AutoModel.from_pretrained(source, trust_remote_code=False)"]
)
def test_the_rule_lets_the_safe_form_pass(code: str) -> None:
    assert findings(Source("x.py", code, ast.parse(code))) == set()
